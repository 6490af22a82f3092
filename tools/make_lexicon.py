#!/usr/bin/env python3
"""Makes src/lexicon/nouns.tsv from WordNet 3.0 and tools/caption_words.txt.

Needs the Debian packages wordnet-base (the database) and scowl (lists of common English words). Run from the repository root:

    python3 tools/make_lexicon.py

Each line of the table is a concept: its words with `|` between, the letter of its kind, and the concepts directly above it, each named by
its first word. A word belongs to one concept: that of its most frequent sense, where that sense is a concrete thing and the word is a noun more often
than anything else by WordNet's counts. Concepts without a word of ours are left out and their place in the hierarchy closed.
"""

import collections
import functools
import os
import re

WORDNET = "/usr/share/wordnet/"
SCOWL = "/usr/share/dict/scowl/"
OUT = "src/lexicon/nouns.tsv"
PLURALS = "src/lexicon/plurals.tsv"
OURS = "tools/caption_words.txt"
# WordNet's lexicographer files that hold visible things, and our letters for them.
KINDS = {5: "a", 6: "t", 8: "b", 13: "f", 17: "o", 18: "p", 20: "l", 27: "s"}
COMMON, COMMON_IN_COMPOUND = 55, 40
MOST_COMPOUND_WORDS = 2
# "yellow jacket" is a jacket in captions.
COLOURS = set("black white red blue green yellow brown gray grey orange pink purple golden silver".split())


def read_synsets():
    synsets = {}
    for line in open(WORDNET + "data.noun"):
        if line.startswith("  "):
            continue
        fields = line.split(" | ")[0].split()
        n = int(fields[3], 16)
        words = [fields[4 + 2 * i].replace("_", " ") for i in range(n)]
        at = 4 + 2 * n
        pointers = [fields[at + 1 + 4 * i : at + 5 + 4 * i] for i in range(int(fields[at]))]
        synsets[fields[0]] = (int(fields[1]), words, [p[1] for p in pointers if p[0] in ("@", "@i")])
    return synsets


def read_senses():
    senses = {}
    for line in open(WORDNET + "index.noun"):
        if not line.startswith("  "):
            fields = line.split()
            senses[fields[0].replace("_", " ")] = fields[-int(fields[2]) :]
    return senses


def read_counts():
    """How often each word was tagged as noun, verb, adjective and adverb."""
    counts = collections.defaultdict(lambda: [0, 0, 0, 0])
    for line in open(WORDNET + "cntlist.rev"):
        key, _, count = line.split()
        word, rest = key.split("%")
        counts[word.replace("_", " ")][{"1": 0, "2": 1, "3": 2, "4": 3, "5": 2}[rest[0]]] += int(count)
    return counts


def read_common():
    common = {}
    for name in os.listdir(SCOWL):
        match = re.fullmatch(r"(english|american|british)-words\.(\d+)", name)
        if match:
            for word in open(SCOWL + name, encoding="latin-1").read().split():
                common[word] = min(int(match[2]), common.get(word, 99))
    return common


def read_ours():
    """Our own choices: senses, concepts, further parents, words to leave out."""
    chosen, concepts, more, dropped = {}, [], collections.defaultdict(list), set()
    for number, line in enumerate(open(OURS), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("-"):
            dropped.add(line[1:])
        elif match := re.fullmatch(r"([a-z' -]+)#(\d)(?: = ([a-z])(?:: (.*))?)?", line):
            chosen[match[1]] = (int(match[2]), match[3], split(match[4]))
        elif match := re.fullmatch(r"([a-z' -]+) \+ ([a-z' -]+)", line):
            more[match[1]].append(match[2])
        elif match := re.fullmatch(r"([a-z0-9', |-]+) = ([a-z])(?:: (.*))?", line):
            concepts += [(split(group), match[2], split(match[3])) for group in match[1].split(" | ")]
        else:
            raise SystemExit(f"{OURS}:{number}: cannot read '{line}'")
    own = [word for words, _, _ in concepts for word in words] + list(chosen)
    twice = [word for word, n in collections.Counter(own).items() if n > 1]
    if twice or dropped & set(own):
        raise SystemExit(f"{OURS}: given more than once: {twice + sorted(dropped & set(own))}")
    return chosen, concepts, more, dropped


def split(text):
    return [part.strip() for part in text.split(",")] if text else []


def main():
    synsets, senses, counts, common = read_synsets(), read_senses(), read_counts(), read_common()
    chosen, concepts, more, dropped = read_ours()
    exceptions = read_exceptions()
    own = {word for words, _, _ in concepts for word in words}

    @functools.cache
    def ancestors(synset):
        found = set()
        for parent in synsets[synset][2]:
            found |= {parent} | ancestors(parent)
        return frozenset(found)

    def is_common(word):
        return common.get(word, 99) <= COMMON

    def is_noun(word):
        noun, *others = counts[word]
        return noun >= max(others)

    def sense(word):
        """The synset that a word means, if it names a concrete thing."""
        if word in chosen:
            return senses[word][chosen[word][0] - 1]
        if word not in senses or word in dropped or word in own or not re.fullmatch("[a-z][a-z' -]+", word):
            return None
        first = senses[word][0]
        if synsets[first][0] not in KINDS or word not in synsets[first][1] or not is_noun(word):
            return None
        for singular in singulars(word):
            if singular in senses and sum(counts[word]) <= sum(counts[singular]) and (synsets[senses[singular][0]][0] in KINDS or singular in own | set(chosen)):
                return None
        return first

    def singulars(word):
        yield from exceptions.get(word, [])
        if word.endswith("s") and not word.endswith("ss"):
            yield word[:-1]
            if word.endswith("es"):
                yield word[:-2]
            if word.endswith("ies"):
                yield word[:-3] + "y"

    def is_wanted(word):
        if word in chosen:
            return True
        parts = re.split("[ -]", word)
        if len(parts) == 1:
            return is_common(word)
        if parts[0] in COLOURS:
            return False
        if len(parts) > MOST_COMPOUND_WORDS or any(common.get(part, 99) > COMMON_IN_COMPOUND for part in parts):
            return False
        # "oak tree" adds nothing to "tree"; "hot dog" is no dog.
        synset = sense(word)
        head = sense(parts[-1]) if parts[-1] not in own else None
        return head is None and parts[-1] not in own or head is not None and head != synset and head not in ancestors(synset)

    members = collections.defaultdict(list)
    for word in sorted(senses):
        synset = sense(word)
        if synset and is_wanted(word):
            members[synset].append(word)
    for synset, words in members.items():
        order = [w.lower() for w in synsets[synset][1]]
        words.sort(key=lambda w: (-counts[w][0], order.index(w)))
    name = {synset: words[0] for synset, words in members.items()}
    # Where one of our own concepts has taken the words of a synset, it stands for it in the hierarchy.
    first_own = {word: words[0] for words, _, _ in concepts for word in words}
    own_kind = {word: kind for words, kind, _ in concepts for word in words}
    for synset, (lexfile, words, _) in synsets.items():
        if synset not in name and words[0] in first_own and senses[words[0]][0] == synset and KINDS.get(lexfile) in (own_kind[words[0]], None):
            name[synset] = first_own[words[0]]

    def named_parents(synset):
        found = []
        for parent in synsets[synset][2]:
            found += [name[parent]] if parent in name else named_parents(parent)
        return found

    rows = {}
    for synset, words in members.items():
        kind, parents = KINDS.get(synsets[synset][0]), named_parents(synset)
        for word in words:
            if word in chosen:
                kind, parents = chosen[word][1] or kind, parents + chosen[word][2]
        if kind is None:
            raise SystemExit(f"{OURS}: '{words[0]}' needs a kind")
        rows[words[0]] = (words, kind, parents)
    for words, kind, parents in concepts:
        rows[words[0]] = (words, kind, list(parents))
    concept_of = {word: first for first, (words, _, _) in rows.items() for word in words}
    for word, parents in more.items():
        if word not in concept_of:
            raise SystemExit(f"{OURS}: '{word} +': no such word")
        rows[concept_of[word]][2].extend(parents)
    write(rows, concept_of)
    write_plurals(concept_of, exceptions)


def write(rows, concept_of):
    with open(OUT, "w") as out:
        for first, (words, kind, parents) in sorted(rows.items()):
            missing = [p for p in parents if p not in concept_of]
            if missing:
                raise SystemExit(f"{OURS}: '{first}' lies under {missing}, which are no words")
            # People are one thing: nothing below "person" needs a place of its own.
            above = [] if kind == "p" else sorted({concept_of[p] for p in parents} - {first})
            out.write(f"{'|'.join(words)}\t{kind}\t{'|'.join(above)}\n")
    print(f"{len(rows)} concepts, {len(concept_of)} words, {os.path.getsize(OUT)} bytes")


def read_exceptions():
    """Irregular plurals and their singulars."""
    return {fields[0]: fields[1:] for fields in map(str.split, open(WORDNET + "noun.exc"))}


def write_plurals(concept_of, exceptions):
    """Irregular plurals of our words, as WordNet lists them; the rules of its morphology find the others."""
    regular = ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"), ("ies", "y")
    with open(PLURALS, "w") as out:
        for plural, bases in sorted(exceptions.items()):
            singular = next((base for base in bases if base in concept_of), None)
            rule = any(plural.endswith(end) and plural[: -len(end)] + other == singular for end, other in regular)
            if singular and plural not in concept_of and not rule:
                out.write(f"{plural}\t{singular}\n")


if __name__ == "__main__":
    main()
