"""The list of attacks: each a function of a `Target` that returns whether the server did what it should, and what it did in words."""

from typing import NamedTuple

ATTACKS = {}


class Attack(NamedTuple):
    run: object
    config: str
    variants: tuple
    watched: bool
    quick: bool


class Target(NamedTuple):
    """What an attack may use."""

    server: object
    # The attacker's key; None on a server without keys.
    key: str
    seconds: float
    rng: object
    quick: bool
    program: str


# On a server with keys, the attacker has one and the polite client another; without, they have addresses of their own.
BOTH = ("keys", "addresses")


def attack(config="", variants=("keys",), watched=True, quick=False):
    """Registers an attack. `watched`: a polite client is served beside it; `quick`: short and certain enough for the tests."""

    def register(function):
        ATTACKS[function.__name__] = Attack(function, config, variants, watched, quick)
        return function

    return register
