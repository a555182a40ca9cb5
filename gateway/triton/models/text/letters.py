"""Letters to sounds, for words that no lexicon has: a small recurrent net, in numpy.

The architecture is that of g2p-en (Apache-2.0): an embedding and a GRU read the letters, a second GRU
says symbols until the end, greedily. Gates in the order r, z, n (torch.nn.GRU).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LONGEST = 40
"""Letters that are read of one word."""
MOST_PER_LETTER = 2
END, START = 3, 2


class LettersToSounds:
    """Safe in any thread."""

    def __init__(self, path: Path) -> None:
        """path: .npz with the net's arrays (any float type), `letters` (str [n]) and `sounds` (str [m]):
        what the output symbols are in the model's alphabet, symbols separated by spaces.

        Raises: ValueError where arrays are missing.
        """
        with np.load(path) as saved:
            arrays = {name: saved[name] for name in saved.files}
        try:
            self._letters = {str(letter): index for index, letter in enumerate(arrays.pop("letters"))}
            self._sounds = [tuple(str(sound).split()) for sound in arrays.pop("sounds")]
            weights = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
            self._read = _Gru(weights, "enc")
            self._say = _Gru(weights, "dec")
            self._out = weights["fc_w"].T.copy(), weights["fc_b"]
        except KeyError as error:
            raise ValueError(f"{path.name} lacks {error}; export the model again") from error

    def __call__(self, word: str) -> tuple[str, ...]:
        """Symbols of a lower-case word; letters unknown to the net are left out."""
        known = [self._letters[letter] for letter in word if letter in self._letters][:LONGEST]
        if not known:
            return ()
        state = np.zeros(self._read.width, np.float32)
        for letter in [*known, self._letters["</s>"]]:
            state = self._read(letter, state)
        said: list[str] = []
        symbol = START
        for _ in range(MOST_PER_LETTER * len(known) + 2):
            state = self._say(symbol, state)
            symbol = int(np.argmax(state @ self._out[0] + self._out[1]))
            if symbol == END:
                break
            said.extend(self._sounds[symbol])
        return tuple(said)


class _Gru:
    def __init__(self, weights: dict[str, NDArray[np.float32]], side: str) -> None:
        # What a letter adds is the same wherever it stands: a table instead of a product.
        self._seen = weights[f"{side}_emb"] @ weights[f"{side}_w_ih"].T + weights[f"{side}_b_ih"]
        self._kept = weights[f"{side}_w_hh"].T.copy()
        self._bias = weights[f"{side}_b_hh"]
        self.width = self._kept.shape[0]

    def __call__(self, index: int, state: NDArray[np.float32]) -> NDArray[np.float32]:
        seen, kept, width = self._seen[index], state @ self._kept + self._bias, self.width
        gates = 1 / (1 + np.exp(-(seen[: 2 * width] + kept[: 2 * width])))
        reset, update = gates[:width], gates[width:]
        new = np.tanh(seen[2 * width :] + reset * kept[2 * width :])
        blended: NDArray[Any] = (1 - update) * new + update * state
        return blended
