"use strict";
(() => {
  const body = document.querySelector(".cohort tbody");
  const heads = [...document.querySelectorAll(".cohort thead tr:first-child th")];
  const filters = [...document.querySelectorAll(".filters th")].map((th) => [...th.querySelectorAll("input, select")]);
  const rows = [...body.rows].map((row, number) => ({
    row, number,
    values: [...row.cells].map((cell) => cell.dataset.value ?? cell.textContent),
  }));
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

  function compare(kind, a, b) { // what is empty comes last, in either direction
    if (a === "" || b === "") return null;
    return kind === "number" ? a - b : words.compare(a, b);
  }

  function sort(column) {
    const head = heads[column], kind = head.dataset.kind;
    const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    rows.sort((one, two) => {
      const a = one.values[column], b = two.values[column];
      const order = compare(kind, a, b);
      const placed = order === null ? (a === "") - (b === "") : sign * order;
      return placed || one.number - two.number;
    });
    body.append(...rows.map(({ row }) => row));
  }

  function passes(column, value) {
    const controls = filters[column];
    if (heads[column].dataset.kind === "number") {
      const [from, to] = controls.map((input) => input.value);
      if (from === "" && to === "") return true;
      return value !== "" && (from === "" || +value >= +from) && (to === "" || +value <= +to);
    }
    const wanted = controls[0].value;
    if (wanted === "") return true;
    return heads[column].dataset.kind === "choice" ? value === wanted : value.toLowerCase().includes(wanted.toLowerCase());
  }

  function filter() {
    let shown = 0;
    for (const { row, values } of rows) {
      const all = values.every((value, column) => passes(column, value));
      row.hidden = !all;
      shown += all;
    }
    const of = rows.length.toLocaleString("en");
    document.getElementById("count").textContent = `${shown.toLocaleString("en")} of ${of} cases shown`;
  }

  heads.forEach((head, column) => head.querySelector("button").addEventListener("click", () => sort(column)));
  for (const control of filters.flat()) control.addEventListener("input", filter);
  document.getElementById("clear").addEventListener("click", () => {
    for (const control of filters.flat()) control.value = "";
    filter();
  });
  filter();
  document.documentElement.dataset.ready = "yes";
})();
