use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::LazyLock,
};

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

/// Folder of captions with published figures, if this machine has it.
fn data() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/data/chair");
    if !folder.is_dir() {
        println!("skipped: {} is absent", folder.display());
        return None;
    }
    Some(folder)
}

#[derive(Deserialize)]
struct Published {
    captions: usize,
    chair_i: f64,
    chair_s: f64,
}

#[derive(Deserialize)]
struct Line {
    caption: String,
    objects: BTreeSet<String>,
}

fn published(folder: &Path) -> BTreeMap<String, Published> {
    serde_json::from_str(&fs::read_to_string(folder.join("published.json")).unwrap()).unwrap()
}

fn lines(file: &Path) -> Vec<Line> {
    fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn objects(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Some lines of CHAIR's list.
static ORIGINAL: LazyLock<ChairVocabulary> = LazyLock::new(|| {
    let text = "person, man, woman, child, baby, adult, passenger, people\nbus, minibus\ntrain, \
                locomotive\nmotorcycle,  motor bike, motorbike\nbird\n\
        bear\nteddy bear, teddybear\ntie, bow, bow tie\nwine glass\nhot dog\ndog\nchair, \
        seat\ntoilet\noven, stove top oven\ncell phone, phone, iPhone\nairplane, jet";
    ChairVocabulary::parse(MatchStyle::Original, text, "list").unwrap()
});

fn named<'v>(vocabulary: &'v ChairVocabulary, caption: &str) -> Vec<(String, &'v str)> {
    vocabulary
        .mentions(caption)
        .into_iter()
        .map(|mention| (caption[mention.range].to_owned(), mention.object))
        .collect()
}

fn owned<'a>(pairs: &[(&str, &'a str)]) -> Vec<(String, &'a str)> {
    pairs
        .iter()
        .map(|&(word, object)| (word.to_owned(), object))
        .collect()
}

#[test]
fn original_style_reproduces_published_figures() {
    let Some(folder) = data() else { return };
    let vocabulary =
        ChairVocabulary::load(MatchStyle::Original, &folder.join("synonyms.txt")).unwrap();
    let published = published(&folder);
    assert!(published.len() >= 2);
    for (file, want) in published {
        let stats: ChairStats = lines(&folder.join(&file))
            .iter()
            .map(|line| judge(&vocabulary, &line.caption, &line.objects).stats)
            .sum();
        assert_eq!(stats.captions, want.captions, "{file}");
        let (chair_i, chair_s) = (
            100.0 * stats.chair_i().unwrap(),
            100.0 * stats.chair_s().unwrap(),
        );
        assert!(
            (chair_i - want.chair_i).abs() <= 0.05 + 1e-9,
            "{file}: CHAIR_i {chair_i}, published {}",
            want.chair_i
        );
        assert!(
            (chair_s - want.chair_s).abs() <= 0.05 + 1e-9,
            "{file}: CHAIR_s {chair_s}, published {}",
            want.chair_s
        );
    }
}

#[test]
fn original_style_has_the_quirks_of_the_reference_code() {
    for (caption, want) in [
        (
            "Two hot dogs, a Hot Dog!",
            &[("hot dogs", "hot dog"), ("Hot Dog", "hot dog")][..],
        ),
        (
            "A baby bear, an adult bird and a baby.",
            &[
                ("baby bear", "bear"),
                ("adult bird", "bird"),
                ("baby", "person"),
            ],
        ),
        (
            "a passenger train, a passenger jet, a passenger",
            &[
                ("passenger train", "train"),
                ("passenger jet", "airplane"),
                ("passenger", "person"),
            ],
        ),
        ("a bus by two buses", &[("buses", "bus")]),
        (
            "a wine glass; wine glasses; a glass",
            &[("wine glass", "wine glass"), ("wine glasses", "wine glass")],
        ),
        (
            "a bow tie, two bow ties, a bow",
            &[("bow tie", "tie"), ("bow", "tie"), ("bow", "tie")],
        ),
        ("a seat", &[("seat", "chair")]),
        ("a toilet seat and a seat", &[("toilet seat", "toilet")]),
        (
            "a motor bike and a motorbike",
            &[("motorbike", "motorcycle")],
        ),
        ("a stove top oven", &[("oven", "oven")]),
        ("an iPhone, a phone", &[("phone", "cell phone")]),
        ("teddy bears", &[("teddy bears", "teddy bear")]),
        (
            "women's people",
            &[("women", "person"), ("people", "person")],
        ),
        ("hot, dog", &[("dog", "dog")]),
        ("a hot\n dog.The dog.", &[("dog", "dog")]),
    ] {
        assert_eq!(named(&ORIGINAL, caption), owned(want), "{caption}");
    }
}

#[test]
fn coco80_matches_english_usage() {
    for (caption, want) in [
        (
            "A bus and two buses at a bus stop.",
            &[("bus", "bus"), ("buses", "bus")][..],
        ),
        (
            "A man with glasses holds wine glasses.",
            &[("man", "person"), ("wine glasses", "wine glass")],
        ),
        (
            "Two glasses of wine on a table.",
            &[("glasses of wine", "wine glass"), ("table", "dining table")],
        ),
        (
            "A woman in an orange shirt peels an orange.",
            &[("woman", "person"), ("orange", "orange")],
        ),
        (
            "Boys play basketball with a basketball.",
            &[("Boys", "person"), ("basketball", "sports ball")],
        ),
        (
            "A baby elephant near a TRAIN STATION.",
            &[("elephant", "elephant")],
        ),
        ("A toilet seat, a front seat.", &[("toilet seat", "toilet")]),
        (
            "People ski on skis.",
            &[("People", "person"), ("skis", "skis")],
        ),
        ("Two people ski down a ski slope.", &[("people", "person")]),
        (
            "a man in a suit and tie ties a knot",
            &[("man", "person"), ("tie", "tie")],
        ),
        (
            "A firefighter by a fire truck and fire hydrants.",
            &[
                ("firefighter", "person"),
                ("fire truck", "truck"),
                ("fire hydrants", "fire hydrant"),
            ],
        ),
        (
            "A teddy bear beside polar bears; the dog bears its teeth.",
            &[
                ("teddy bear", "teddy bear"),
                ("polar bears", "bear"),
                ("dog", "dog"),
            ],
        ),
        (
            "A hot dog for a Golden Retriever's puppies.",
            &[
                ("hot dog", "hot dog"),
                ("Golden Retriever", "dog"),
                ("puppies", "dog"),
            ],
        ),
        (
            "A vase filled with flowers and a dog bowl.",
            &[("vase", "vase"), ("bowl", "bowl")],
        ),
        (
            "A wheel chair, a flower bed, a cable car, a pool table.",
            &[],
        ),
        ("Ducks in a pond.", &[("Ducks", "bird")]),
        (
            "A man in a shirt, tie and hat runs, ducks under a bar.",
            &[("man", "person"), ("tie", "tie")],
        ),
        (
            "A bunch of ducks and 20 birds.",
            &[("ducks", "bird"), ("birds", "bird")],
        ),
        (
            "The catcher's mitt; a double-decker bus.",
            &[
                ("catcher's mitt", "baseball glove"),
                ("double-decker bus", "bus"),
            ],
        ),
        (
            "A cell phone, a remote control, a TV.",
            &[
                ("cell phone", "cell phone"),
                ("remote control", "remote"),
                ("TV", "tv"),
            ],
        ),
        (
            "A clock tower with a clock.",
            &[("clock tower", "clock"), ("clock", "clock")],
        ),
        (
            "Two oxen, three geese, knives.",
            &[("oxen", "cow"), ("geese", "bird"), ("knives", "knife")],
        ),
        ("", &[]),
    ] {
        assert_eq!(
            named(ChairVocabulary::coco80(), caption),
            owned(want),
            "{caption}"
        );
    }
}

#[test]
fn coco80_has_80_objects_and_every_word_names_its_object() {
    let vocabulary = ChairVocabulary::coco80();
    assert_eq!(
        (vocabulary.names().len(), vocabulary.style()),
        (80, MatchStyle::Plain)
    );
    for line in include_str!("coco80.txt")
        .lines()
        .filter(|line| !line.starts_with(['#', '-']))
    {
        let words: Vec<&str> = line.split(", ").collect();
        for word in &words {
            assert_eq!(vocabulary.object(word), Some(words[0]), "{word}");
            // An unambiguous sentence.
            let caption = format!("There is the {word}.");
            assert_eq!(
                named(vocabulary, &caption),
                [((*word).to_owned(), words[0])],
                "{word}"
            );
        }
    }
    let Some(folder) = data() else { return };
    let original =
        ChairVocabulary::load(MatchStyle::Original, &folder.join("synonyms.txt")).unwrap();
    assert_eq!(vocabulary.names(), original.names());
}

#[test]
fn judgment_follows_the_objects_of_the_image() {
    let vocabulary = ChairVocabulary::coco80();
    let present = vocabulary.objects(
        ["sofa", "Cat", "unicorn"],
        ["A dog on a couch.", "Two dogs beside a person"],
    );
    assert_eq!(present, objects(&["cat", "couch", "dog", "person"]));
    let caption = "A dog, a puppy and a bird on a sofa; the bird sings.";
    let judgment = judge(vocabulary, caption, &present);
    let found: Vec<(&str, bool)> = judgment
        .mentions
        .iter()
        .map(|(mention, is)| (&caption[mention.range.clone()], *is))
        .collect();
    assert_eq!(
        found,
        [
            ("dog", true),
            ("puppy", true),
            ("bird", false),
            ("sofa", true),
            ("bird", false)
        ]
    );
    let want = ChairStats {
        captions: 1,
        hallucinating: 1,
        mentions: 5,
        hallucinated: 2,
        present: 4,
        covered: 2,
        coverable: 1,
        cover: 0.5,
        words: 13,
    };
    assert_eq!(judgment.stats, want);
    let bare = judge(vocabulary, "A bird.", &objects(&["unicorn"])).stats;
    assert_eq!(
        (
            bare.present,
            bare.coverable,
            bare.hallucinated,
            bare.cover()
        ),
        (0, 0, 1, None),
        "the vocabulary has no unicorn"
    );
}

#[test]
fn error_in_a_list_names_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("words.txt");
    let error = |style, text: &str| {
        fs::write(&file, text).unwrap();
        ChairVocabulary::load(style, &file).unwrap_err().to_string()
    };
    for (text, line, part) in [
        ("dog, puppy\n\ncat", 2, "empty line"),
        ("dog, , puppy", 1, "empty word"),
        ("# ours\ndog\ncat, kitten,", 3, "empty word"),
        ("dog\ncat\nDog, puppy", 3, "object `dog`"),
        ("dog, pet\ncat, Pet", 2, "`pet` already names `dog`"),
        (
            "-, hot tub\nbath, hot tub",
            2,
            "`hot tub` already names `-`",
        ),
        ("tv, tv/monitor", 1, "`tv/monitor`"),
    ] {
        let message = error(MatchStyle::Plain, text);
        assert!(
            message.starts_with(&format!("{}:{line}: ", file.display())) && message.contains(part),
            "{message}"
        );
    }
    assert!(error(MatchStyle::Original, "dog\n\ncat").contains("words.txt:2: empty line"));
    assert!(error(MatchStyle::Plain, "# nothing\n").contains("no objects"));
    assert!(
        ChairVocabulary::load(MatchStyle::Plain, &folder.path().join("absent"))
            .unwrap_err()
            .to_string()
            .contains("absent")
    );
    let last_wins =
        ChairVocabulary::parse(MatchStyle::Original, "dog, pet\ncat, pet", "list").unwrap();
    assert_eq!(last_wins.object("pet"), Some("cat"));
}

#[test]
fn own_list_needs_no_plurals_and_may_have_unknown_words() {
    let text = "gizmo, flux capacitor\nfox, vixen\n-, fox hole";
    let vocabulary = ChairVocabulary::parse(MatchStyle::Plain, text, "list").unwrap();
    let caption = "Three gizmos, Flux  Capacitors, two foxes, a fox hole, a flux";
    assert_eq!(
        named(&vocabulary, caption),
        owned(&[
            ("gizmos", "gizmo"),
            ("Flux  Capacitors", "gizmo"),
            ("foxes", "fox")
        ])
    );
    assert_eq!(
        (vocabulary.object("Vixen"), vocabulary.object("fox hole")),
        (Some("fox"), None)
    );
    assert_eq!(vocabulary.names(), ["gizmo", "fox"]);
}

#[test]
fn contrast_of_two_lists_counts_disagreements() {
    let present = objects(&["person", "bus"]);
    let references = ["A bear.".to_owned()];
    let captions = [
        "A bus and a bus.",
        "A soccer player in a seat.",
        "A bear in a bus.",
    ];
    let captions: Vec<ContrastCaption> = captions
        .iter()
        .map(|&caption| ContrastCaption {
            caption,
            instances: &present,
            references: &references,
        })
        .collect();
    let found = contrast(&ORIGINAL, ChairVocabulary::coco80(), &captions);
    let counts: Vec<(&str, &str, usize, usize)> = found
        .disagreements
        .iter()
        .map(|d| (d.word.as_str(), d.object.as_str(), d.first, d.second))
        .collect();
    assert_eq!(
        counts,
        [
            ("bus", "bus", 0, 3),
            ("seat", "chair", 1, 0),
            ("soccer player", "person", 0, 1)
        ]
    );
    assert_eq!(
        (
            found.first.mentions,
            found.first.hallucinated,
            found.second.mentions,
            found.second.hallucinated
        ),
        (2, 1, 5, 0)
    );
    assert_eq!(
        (found.first.chair_s(), found.second.chair_s()),
        (Some(1.0 / 3.0), Some(0.0))
    );
    let same = contrast(&ORIGINAL, &ORIGINAL, &captions);
    assert_eq!((same.first, same.disagreements.len()), (same.second, 0));
    // For one object, part of a phrase and the phrase agree.
    let ball = ChairVocabulary::parse(MatchStyle::Original, "sports ball, ball", "list").unwrap();
    let caption = [ContrastCaption {
        caption: "A soccer ball.",
        instances: &present,
        references: &[],
    }];
    assert_eq!(
        contrast(&ball, ChairVocabulary::coco80(), &caption).disagreements,
        []
    );
}

proptest! {
    #[test]
    fn mentions_in_any_text_are_in_order_at_character_boundaries(
        text in "(\\PC{0,8}|( ?(dogs?|Hot|hot dog|buses|orange|tie|toilet|seat|wine|glasses of|ÉTÉ|\
                 İ|bow-tie|'s|\\.|,|—)){0,4}){0,6}",
    ) {
        for vocabulary in [&*ORIGINAL, ChairVocabulary::coco80()] {
            let mut last = 0;
            for mention in vocabulary.mentions(&text) {
                prop_assert!(last <= mention.range.start
                    && mention.range.start < mention.range.end);
                prop_assert!(text.get(mention.range.clone()).is_some());
                prop_assert!(vocabulary.names().iter().any(|name| name == mention.object));
                last = mention.range.end;
            }
        }
    }

    #[test]
    fn caption_judged_by_its_own_objects_has_no_hallucination(
        text in "( ?(a|two|dogs?|cat|orange|tie|seats?|bench|of|and|red)){0,12}",
    ) {
        for vocabulary in [&*ORIGINAL, ChairVocabulary::coco80()] {
            let present = vocabulary.objects::<&str, _>([], [&text]);
            let stats = judge(vocabulary, &text, &present).stats;
            prop_assert_eq!((stats.hallucinated, stats.hallucinating, stats.covered),
                (0, 0, present.len()));
        }
    }
}
