"use strict";
(() => {
  const PERIOD_MS = 450; // of the flicker: two changes a second, below what can harm
  const sheets = [...document.querySelectorAll(".atlases > div")].map((box) => ({
    columns: +box.dataset.columns,
    width: +box.dataset.width,
    height: +box.dataset.height,
    across: +box.dataset.across,
    down: +box.dataset.down,
    labels: box.dataset.labels.split("|"),
    slice: +box.dataset.first,
    centre: [0.5, 0.5],
    atlases: Object.fromEntries([...box.querySelectorAll("img")].map((img) => [img.dataset.kind, img])),
  }));
  const narrowest = Math.min(...sheets.flatMap((sheet) => [sheet.across, sheet.down]));
  const state = { chosen: "after", shown: "after", flicker: false, hovered: false, zoom: 1, timer: 0 };
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const stages = [...document.querySelectorAll(".stages figure")].map((figure) => {
    const sheet = sheets[+figure.dataset.plane];
    const kind = figure.parentElement.dataset.kind;
    figure.style.flexGrow = sheet.across; // one scale in mm for all three planes
    const canvas = figure.querySelector("canvas");
    canvas.style.aspectRatio = `${sheet.across} / ${sheet.down}`;
    return {
      sheet, kind, canvas,
      slider: figure.querySelector(".slice"),
      label: figure.querySelector("output"),
      word: figure.querySelector(".shown"),
    };
  });

  function draw(stage) {
    const { sheet, canvas } = stage;
    const kind = stage.kind === "grey" ? state.shown : stage.kind;
    const ratio = window.devicePixelRatio || 1;
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round((canvas.clientWidth * ratio * sheet.down) / sheet.across));
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const w = sheet.width / state.zoom, h = sheet.height / state.zoom;
    const x = (sheet.slice % sheet.columns) * sheet.width + limited(sheet.centre[0], state.zoom) * sheet.width - w / 2;
    const y = Math.floor(sheet.slice / sheet.columns) * sheet.height + limited(sheet.centre[1], state.zoom) * sheet.height - h / 2;
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(sheet.atlases[kind], x, y, w, h, 0, 0, width, height);
    if (stage.kind === "grey") {
      stage.word.textContent = state.shown;
      scale(context, (width / sheet.across) * state.zoom, ratio);
    }
    stage.label.textContent = sheet.labels[sheet.slice];
    stage.slider.value = sheet.slice;
  }

  function limited(centre, zoom) {
    const half = 0.5 / zoom;
    return Math.min(1 - half, Math.max(half, centre));
  }

  function scale(context, perMm, ratio) { // a bar of a round length in the lower left corner
    const length = [100, 50, 20, 10, 5, 2, 1].find((mm) => mm <= (0.35 * narrowest) / state.zoom);
    if (!length) return;
    const left = 8 * ratio, base = context.canvas.height - 8 * ratio;
    context.strokeStyle = context.fillStyle = "#fff";
    context.lineWidth = 2 * ratio;
    context.beginPath();
    context.moveTo(left, base);
    context.lineTo(left + length * perMm, base);
    context.stroke();
    context.font = `${11 * ratio}px system-ui, "DejaVu Sans", sans-serif`;
    context.fillText(`${length} mm`, left, base - 5 * ratio);
  }

  function redraw() {
    stages.forEach(draw);
  }

  function update() {
    for (const button of document.querySelectorAll("[data-show]"))
      button.setAttribute("aria-pressed", String(!state.flicker && button.dataset.show === state.chosen));
    document.querySelector("[data-flicker]").setAttribute("aria-pressed", String(state.flicker));
    const moving = state.flicker || (state.hovered && !still.matches);
    if (moving && !state.timer) {
      state.timer = setInterval(() => show(state.shown === "after" ? "before" : "after"), PERIOD_MS);
    } else if (!moving && state.timer) {
      clearInterval(state.timer);
      state.timer = 0;
    }
    if (!moving) show(state.chosen);
  }

  function show(kind) {
    state.shown = kind;
    document.documentElement.dataset.shown = kind;
    stages.filter((stage) => stage.kind === "grey").forEach(draw);
  }

  function choose(kind) {
    state.chosen = kind;
    state.flicker = false;
    state.hovered = false;
    update();
  }

  function flicker() {
    state.flicker = !state.flicker;
    update();
  }

  for (const button of document.querySelectorAll("[data-show]"))
    button.addEventListener("click", () => choose(button.dataset.show));
  document.querySelector("[data-flicker]").addEventListener("click", flicker);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const act = { b: () => choose("before"), a: () => choose("after"), f: flicker }[event.key.toLowerCase()];
    if (act) act();
  });
  const zoom = document.getElementById("zoom");
  zoom.addEventListener("input", () => {
    state.zoom = +zoom.value;
    document.getElementById("factor").textContent = `${+state.zoom.toFixed(1)}×`;
    redraw();
  });
  for (const stage of stages) {
    const { sheet, canvas } = stage;
    stage.slider.addEventListener("input", () => {
      sheet.slice = +stage.slider.value;
      stages.filter((other) => other.sheet === sheet).forEach(draw);
    });
    if (stage.kind === "grey") {
      canvas.addEventListener("pointerenter", () => { state.hovered = true; update(); });
      canvas.addEventListener("pointerleave", () => { state.hovered = false; update(); });
    }
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      if (!(event.buttons & 1) || state.zoom === 1) return;
      const shift = [event.movementX / canvas.clientWidth, event.movementY / canvas.clientHeight];
      sheet.centre = sheet.centre.map((c, n) => limited(limited(c, state.zoom) - shift[n] / state.zoom, state.zoom));
      stages.filter((other) => other.sheet === sheet).forEach(draw);
    });
  }
  window.addEventListener("resize", redraw);
  function coloured(image, stops) { // a grey atlas in colours, evenly spaced from 0 to 255
    const table = Array.from({ length: 256 }, (_, grey) => {
      const place = (grey / 255) * (stops.length - 1);
      const low = Math.min(Math.floor(place), stops.length - 2);
      return stops[low].map((from, n) => Math.round(from + (place - low) * (stops[low + 1][n] - from)));
    });
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height);
    for (let n = 0; n < pixels.data.length; n += 4) pixels.data.set(table[pixels.data[n]], n);
    context.putImageData(pixels, 0, 0);
    return canvas;
  }

  const colours = document.querySelector(".atlases").dataset;
  const images = sheets.flatMap((sheet) => Object.values(sheet.atlases));
  Promise.all(images.map((image) => image.decode())).then(() => {
    for (const { atlases } of sheets) {
      for (const kind of Object.keys(atlases).filter((each) => colours[each])) {
        const stops = colours[kind].split(",").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
        atlases[kind] = coloured(atlases[kind], stops);
      }
    }
    update();
    redraw();
    document.documentElement.dataset.ready = "yes";
  });
})();
