"""Codes of `SettingsError`, of `PriorError`, and of faults of medidiff itself."""

from __future__ import annotations

__all__ = ["BUG", "PRIOR", "SETTINGS"]

Rows = dict[str, tuple[str, str]]

SETTINGS: Rows = {
    "E-ASKED": (
        "A synthetic scan with an age, sex, contrast, spacing or field of view that the prior was not trained on.",
        "Ask for the nearest that it knows; the message names it.",
    ),
    "E-KEY": (
        "The key file for de-identification is missing, open to others, too short or in the way.",
        "Make one with --new-key, and keep it readable by its owner only.",
    ),
    "E-AXES": ("Three axes were wanted, each once.", "Give 0, 1 and 2 in the order that is meant."),
    "E-BEAM": (
        "A CT scanner that cannot be: no photons, no views, or an unknown filter.",
        "Take values in the range named.",
    ),
    "E-BETAS": ("No schedule of noise over time steps.", "Take one of the named schedules."),
    "E-CALIBRATION": (
        "A calibration that is broken or was edited, or for answers of another prior, task or way of drawing.",
        "Restore as the calibration says, or make another with medidiff calibrate.",
    ),
    "E-CASES": ("Too few scans for a figure about a set of them.", "Give more scans."),
    "E-CONDITION": (
        "What the network is told has another shape than the image.",
        "Give one channel of the image's shape.",
    ),
    "E-CONSISTENCY": ("Strength or noise of the data consistency is out of range.", "Take a strength of 0 to 1."),
    "E-DATA": ("Training scans that the recipe names are not there.", "Name their folder with --data."),
    "E-DATARANGE": ("A metric needs a data range above 0.", "Give the brightness that counts as 100 %."),
    "E-DEVICE": ("There is no such device.", "Use --device auto."),
    "E-DOSE": ("A dose that is no share of the scan's own.", "Take a number above 0 and at most 1."),
    "E-ENGINE": (
        "The workers of a batch cannot be started where they should run: no cluster, a package missing, or a refusal.",
        "Do what the message says, or use --engine local.",
    ),
    "E-ETA": ("The share of fresh noise is out of range.", "Take a number of at least 0."),
    "E-EXPORT": (
        "A data set that the format cannot hold, no such format, or a description of it that cannot be.",
        "Choose another format, or correct what the message names.",
    ),
    "E-FACTOR": ("A factor or thickness of slices is out of range.", "Take a factor of at least 1."),
    "E-GUIDANCE": ("The guidance scale is out of range.", "Take a finite number of at least 0."),
    "E-LIKE": (
        "DICOM is to be written, but no DICOM series is named whose study it belongs to.",
        "Name it with --like, or write NIfTI.",
    ),
    "E-MLFLOW": (
        "MLflow cannot use this store.",
        "Name a file (sqlite:///runs.db) in a folder that exists, or a server that answers.",
    ),
    "E-MONTAGE": ("A picture without panels or planes.", "Give at least one of each."),
    "E-NOISE": ("An unknown kind of noise, or a level out of range.", "Take rician or gaussian, and a level >= 0."),
    "E-OUTFORMAT": (
        "The output's name does not tell the format, or contradicts what was asked for.",
        "Name a .nii, .nii.gz, .nrrd or .mha file, or say --format with a folder.",
    ),
    "E-PANELS": ("A comparison without images.", "Give at least one."),
    "E-PATIENTS": (
        "Too few patients for the coverage that is to be promised, or one who counts twice.",
        "Add patients or ask for a smaller share; the message says how many are needed.",
    ),
    "E-PRIVATE": (
        "A name or value for the training log could identify a patient or hold a secret.",
        "Log numbers and names of your own only.",
    ),
    "E-CACHE": (
        "A prepared scan of the cache was removed or altered during the run.",
        "Run the same command again; it is made anew.",
    ),
    "E-PROCESSES": (
        "The processes of a training run do not fit together, or one of them has ended.",
        "Start them with torchrun; the same command goes on from the checkpoint.",
    ),
    "E-RECIPE": ("The recipe is not there or has a broken entry.", "Correct the entry that the message names."),
    "E-RUN": ("The folder holds another training run.", "Train into another folder."),
    "E-REPLAY": (
        "A run that cannot be made again here: of another verb, not finished, of another recipe, or to DICOM.",
        "Name a run of denoise, superresolve or train that was done, and what the message asks for.",
    ),
    "E-REPLAY-VERSION": (
        "The run was made with another version of medidiff or of a package that has an effect on the result.",
        "Install the versions that the message names.",
    ),
    "E-SEED": ("A negative seed, or not one generator for each image.", "Take seeds of at least 0."),
    "E-SETTING": ("An option is out of range, or two contradict each other.", "Correct the option named."),
    "E-SHARED": (
        "One subject or one scan stands in two parts of a split, so that what is held back has been seen.",
        "List each person, with all of its scans, in one part.",
    ),
    "E-SHOW": (
        "A package that shows volumes in notebooks is not installed.",
        "Install it with: pip install 'medidiff[notebooks]'.",
    ),
    "E-SIGMA": ("Noise levels that are no descending grid.", "Take levels above 0 that fall to 0."),
    "E-SMOOTHNESS": ("The smoothness of a noise map is out of range.", "Take a number above 0."),
    "E-SPLIT": (
        "The list of training and test subjects is not there or broken.",
        "Correct the file that the recipe names.",
    ),
    "E-STEPS": ("The number of sampling steps is out of range.", "Take at least 1."),
    "E-PACK": (
        "A pack of training scans is broken, lacks scans of a part, or would have to hold simulated noise.",
        "Make it again with pipelines/prepare.py.",
    ),
    "E-SYNTHETIC": (
        "An invented scan must not enter a patient's study.",
        "Write it as NIfTI, or without a source.",
    ),
    "E-UNGATED": (
        "A synthetic data set whose gates were not run or do not hold: it could hold copies of patients.",
        "Run the gates; or say why it leaves all the same, with the override, which then stands in the data set.",
    ),
    "E-TARGET": (
        "The voxel size asked for is impossible, or coarser than the scan's.",
        "Give three sizes in mm, none above the scan's own, or 'own' to keep the scan's along an axis.",
    ),
    "E-TILE": ("The tiles are too small for their overlap.", "Take larger tiles."),
    "E-USAGE": ("The command line is not understood.", "The message names the nearest verb or option."),
    "E-WINDOW": ("A display window that is no range.", "Give two numbers, black first."),
}

PRIOR: Rows = {
    "E-CARD": ("The card of a prior is broken.", "Fetch the card and its weights again."),
    "E-CHECKPOINT": (
        "A training checkpoint is broken or belongs to another network.",
        "Remove it, or train into another folder.",
    ),
    "E-CONTRAST": (
        "The prior draws another contrast than is wanted, or draws where it should restore, or the other way round.",
        "Name a prior that was trained for the task.",
    ),
    "E-DIVERGED": ("Training has lost its way: the loss is no longer a number.", "Lower fit.rate in the recipe."),
    "E-EMBEDDING": (
        "The mean brain of the copy gate is not there or broken.",
        "Install medidiff again, or make it again with pipelines/embedding.py.",
    ),
    "E-INDEX": (
        "The index of the training scans is not there, broken, or of another embedding or other scans.",
        "Make it again with pipelines/index.py from the scans that the prior was trained on.",
    ),
    "E-MODEL-NONFINITE": (
        "The network answered with NaN or infinity; nothing was written.",
        "Run it with --device cpu; if it stays, the prior does not fit this scan.",
    ),
    "E-PARITY": (
        "An exported network does not answer as the prior does; nothing was written.",
        "Export with the versions in constraints.txt; if it stays, please report it.",
    ),
    "E-PRIOR": ("There is no such prior.", "Name a bundled prior, or the card of one of your own."),
    "E-REPLAY-PRIOR": ("The run was made with another prior.", "Name the prior that was used with --prior."),
    "E-SCOPE-REF": (
        "The file that says which scans a prior is for is missing or damaged.",
        "Install medidiff again, or make the file again with pipelines/scope.py.",
    ),
    "E-START": (
        "A training run cannot begin with this prior.",
        "Take a prior with the same channels and at most as many blocks.",
    ),
    "E-TRAVEL": (
        "A prior that cannot be exported: it draws whole heads and restores no scan.",
        "Export a prior that restores scans; `medidiff priors` lists them.",
    ),
    "E-WEIGHTS": (
        "The weights of a prior are damaged, too large, or not those of its card.",
        "Fetch the card and the weights again.",
    ),
}

BUG: Rows = {
    "E-CARRY": (
        "A module of medidiff is written so that the code which an exported prior needs cannot be gathered.",
        "This is a fault of medidiff: please report it.",
    ),
    "E-CONSERVATION": (
        "A run ended well, but some file or series that it saw was neither used nor skipped nor refused.",
        "Run it again if files came or went meanwhile; else it is a fault of medidiff: please report it.",
    ),
}
