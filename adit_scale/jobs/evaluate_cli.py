"""``adit evaluate``: scores of samples and of real data, by one code; pictures and DFT of them.

    adit evaluate score PATH... [out=FOLDER] [train=PLACE] [against=PLACE] [key=value ...]
    adit evaluate compare FOLDER FOLDER... [out=FOLDER]
    adit evaluate figures FOLDER... [out=FOLDER] [against=FOLDER] [title=TEXT]
    adit evaluate gallery PATH scores=FOLDER out=FOLDER [count=24] [title=TEXT]
    adit evaluate hull-entries PATH relax=chgnet out=FILE.json [limit=N]
    adit evaluate hull-entries FILE.csv... formation_energies=COLUMN relax=chgnet out=FILE.json
    adit evaluate leakage SHARDS [split=val] [limit_s=300] [processes=0]
    adit evaluate dft-inputs PATH out=FOLDER [scores=FOLDER] [choose=valid] [ids=ID,ID] [limit=N]
    adit evaluate dft-results FOLDER [out=FOLDER] [hull=FILE.json] [train=PLACE] [corrections=mp2020|none]

PATH       a folder of `adit sample`, shards, or any file or folder that `adit data build` reads
PLACE      shards (train: their training split), or structures as PATH; against: also a scores.json

score      Several PATHs are seeds of one model: their spread is told. Writes scores.json, verdicts-*.csv
           (one line a sample) and table.md; the same words again go on where a killed scoring was.
  out      folder of the results; without it they are only printed
  train    what novelty is judged against
  against  the ceiling: real data (scored here), or finished scores
  limit    the first ones of each domain (all); domain: crystal, molecule or both; split: of shards (test)
  protocols=edm,rdkit,posebusters,adit,geom   how molecules are judged
  oxidation_states=smact14|icsd24|pymatgen_sp, crystalnn=true, crystal_uniqueness=false
  relax=chgnet, hull=FILE.json, relax_molecules=mmff,xtb   energies; energies.NAME=VALUE: their settings
  processes (0: every core), call_limit_s (10), confidence (0.95)
compare    differences of every rate from the first folder's, with intervals and verdicts
figures    of scored folders, one series each; against: scored real data, in grey
gallery    the first samples as PNG and as one HTML file to turn them in
hull-entries   reference entries for hull=, of a model's own energies of real crystals; or of a column of
               published ones (eV/atom), the elements' energies fitted to the model on fit=1500 crystals
               and compared on check=60 others
leakage        held-out structures that stand in the training split, conformers of one molecule included;
               exit status 1 where there are any. split: val or test; limit_s: for each domain
dft-inputs     VASP inputs by MPRelaxSet; choose=all|valid|best|stable|metastable
dft-results    finished calculations, as verdicts and rates
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence

from adit_scale.errors import ConfigError

# Command: module and function that takes the words after it and the program's name.
COMMANDS = {
    "score": "adit_scale.jobs.evaluate_commands:score",
    "compare": "adit_scale.jobs.evaluate_commands:compare",
    "figures": "adit_scale.jobs.evaluate_commands:figures",
    "gallery": "adit_scale.jobs.evaluate_commands:gallery",
    "hull-entries": "adit_scale.jobs.evaluate_commands:hull_entries",
    "leakage": "adit_scale.jobs.evaluate_commands:leakage",
    "dft-inputs": "adit_scale.jobs.evaluate_commands:dft_inputs",
    "dft-results": "adit_scale.jobs.evaluate_commands:dft_results",
}


def main(words: Sequence[str], prog: str = "adit evaluate") -> int:
    """Returns the exit status. Raises AditError, OSError."""
    if not words or words[0] in ("-h", "--help") or {"-h", "--help"} & set(words[1:]):
        print(f"usage: {prog} COMMAND ...\n\n{(__doc__ or '').partition(chr(10))[2].strip()}")
        return 0
    if words[0] not in COMMANDS:
        raise ConfigError(f"{words[0]}: no such command of {prog}; expected one of {', '.join(COMMANDS)}")
    module, _, name = COMMANDS[words[0]].partition(":")
    command: Callable[[Sequence[str], str], int] = getattr(importlib.import_module(module), name)
    return command(words[1:], f"{prog} {words[0]}")
