"""OneLineParser: argparse with mistakes answered in one line, for runp.py and the scripts."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

from src.errors import UserError
from src.flag_values import did_you_mean


class OneLineParser(argparse.ArgumentParser):
    """Raises a UserError of one line; argparse itself prints its whole usage before an error, and ends the program.

    Args:
        prog: the program's path from the project's root, as scripts/prepare_kth.py.
    """

    def error(self, message: str) -> None:
        raise UserError(f"{message.removeprefix('argument ')}; see python {self.prog} --help")

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            given = list(sys.argv[1:] if args is None else args)
            self._refuse_further_value(given, unknown[0])
            flag = unknown[0].split("=")[0]
            known_flags = [name for name in self._option_string_actions if name.startswith("--")]
            advice = did_you_mean(flag, known_flags) or f"; see python {self.prog} --help"
            raise UserError(f"{flag} is not a flag{advice}")
        return known

    def _refuse_further_value(self, given: Sequence[str], word: str) -> None:
        """Say so where the word that is no flag stands behind a flag and its value: --num_hidden 64 64."""
        if self._get_positional_actions():  # the word may be one of these
            return
        for at, flag in enumerate(given):
            values = list(itertools.takewhile(lambda part: not part.startswith("-"), given[at + 1 :]))
            action = self._option_string_actions.get(flag)
            if action and action.nargs in (None, "?") and word in values[1:]:
                joined = ",".join(value.strip(",") for value in values)
                several = "," in str(action.metavar)
                advice = f"with commas: {flag} {joined}" if several else f"in quotes if it has spaces: {flag} '...'"
                raise UserError(f"{flag} {' '.join(values)}: expected one value; write it {advice}")
