"""``repair``: from a data set that cannot be trained on, or of another format, to an npz file that can."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from adaptive_constraints.cli.command import FOUND_ERRORS, Command, Common
from adaptive_constraints.data import doctor, load_dataset, save_npz
from adaptive_constraints.data.repair.repairs import Repairs
from adaptive_constraints.data.sources.expressions import sources_of
from adaptive_constraints.errors import DatasetError
from adaptive_constraints.support.files import check_file


@dataclass(kw_only=True)
class Repair(Command):
    """Mend a data set as asked, say what changed, and write it as npz; the exit code is 1 if errors remain.

    Repairs are done in the order in which they stand below, whatever the order of the words. The doctor names them.
    """

    data: str
    """Data reference: what to read; the original is left as it is. What is derived from others is mended last."""
    out: Path
    """File to write (.npz)."""
    repairs: Repairs = field(default_factory=Repairs)
    ignore: tuple[str, ...] = ()
    """Arrays or groups of the file to leave out; * stands for any text."""
    download: bool = False
    """Fetch a data set of Minari or OGBench that is not here yet."""
    common: Common = field(default_factory=Common)

    def run(self) -> int:
        """Read, mend, diagnose and write."""
        self._check_out()
        mended, lines = self.repairs.apply(load_dataset(self.data, download=self.download, ignore=self.ignore))
        print("\n".join(lines) or "no repair was asked for: the rows stay as they were read")
        diagnosis = doctor(mended)
        print(repr(mended))
        print(diagnosis)
        if diagnosis.errors and not (self.repairs.asked or self.ignore):
            raise DatasetError(
                f"{self.out} is not written: no repair was asked for and errors remain; ask for what they name"
            )
        save_npz(mended, self.out)
        print(f"written to {self.out}; train on it with --data npz:{self.out}")
        if diagnosis.errors:
            print(f"errors remain: repair npz:{self.out} further, or start again from {self.data} with more repairs")
        return FOUND_ERRORS if diagnosis.errors else 0

    def _check_out(self) -> None:
        if self.out.suffix != ".npz":
            raise DatasetError(f"cannot write {self.out}: give a file name ending in .npz")
        files = [Path(source.partition(":")[2].partition("#")[0]).expanduser() for source in sources_of(self.data)]
        if self.out.exists() and any(file.exists() and self.out.samefile(file) for file in files):
            raise DatasetError(f"{self.out} is what is to be repaired: name another file, so that the original stays")
        check_file(self.out)


__all__ = ["Repair"]
