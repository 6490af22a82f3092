//! Generation of POPE's questions.

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap},
};

use super::{PopeQuestion, Setting, question};

/// Asks about up to `per_image` objects of every image, each question followed by one about an
/// absent object, as POPE's code does.
///
/// An absent object is chosen once per image. Popularity and co-occurrence are counted over all of
/// `images`, ties broken by name. If `setting` finds no further absent object, a random one is
/// taken. All settings ask about the same present objects.
///
/// Differences from POPE's code: present objects are drawn, where it takes an image's first ones;
/// an image with fewer objects than `per_image` (or with fewer absent ones) gets as many pairs as
/// it has, where POPE's code drops the image (the caller can drop it too, to match); draws depend
/// only on `seed`, image and object, so that a further image changes no draw for the others unless
/// it brings a new object.
pub fn build(
    images: &[(&str, &BTreeSet<String>)],
    setting: Setting,
    per_image: usize,
    seed: u64,
) -> Vec<PopeQuestion> {
    let statistics = Statistics::new(images);
    let mut questions = Vec::new();
    for &(image, objects) in images {
        for (present, absent) in pairs(&statistics, image, objects, setting, per_image, seed) {
            for (object, present) in [(present, true), (absent, false)] {
                questions.push(PopeQuestion {
                    id: questions.len() as u64 + 1,
                    image: image.to_owned(),
                    text: question(object),
                    present,
                    object: Some(object.to_owned()),
                    setting: Some(setting),
                });
            }
        }
    }
    questions
}

/// Present objects, each with an absent one.
fn pairs<'a>(
    statistics: &Statistics<'a>,
    image: &str,
    objects: &'a BTreeSet<String>,
    setting: Setting,
    per_image: usize,
    seed: u64,
) -> Vec<(&'a str, &'a str)> {
    let mut present: Vec<&str> = objects.iter().map(String::as_str).collect();
    present.sort_by_cached_key(|object| draw(seed, image, object));
    let mut drawn: Vec<&str> = statistics
        .popular
        .iter()
        .copied()
        .filter(|&object| !objects.contains(object))
        .collect();
    drawn.sort_by_cached_key(|object| draw(seed, image, object));
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for object in present.into_iter().take(per_image) {
        let best = match setting {
            Setting::Random => &[],
            Setting::Popular => &statistics.popular[..],
            Setting::Adversarial => statistics
                .together
                .get(object)
                .map_or(&[][..], Vec::as_slice),
        };
        let free = |other: &&&str| {
            !objects.contains(**other) && pairs.iter().all(|(_, chosen)| chosen != *other)
        };
        let Some(&absent) = best.iter().chain(&drawn).find(free) else {
            break;
        };
        pairs.push((object, absent));
    }
    pairs
}

/// Frequencies of the objects in the data set.
struct Statistics<'a> {
    /// All objects, most frequent first.
    popular: Vec<&'a str>,
    /// For each object, the objects that share an image with it, most frequent first.
    together: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Statistics<'a> {
    fn new(images: &[(&str, &'a BTreeSet<String>)]) -> Self {
        let mut popular: HashMap<&str, usize> = HashMap::new();
        let mut together: HashMap<&str, HashMap<&str, usize>> = HashMap::new();
        for (_, objects) in images {
            for object in *objects {
                *popular.entry(object).or_default() += 1;
                let others = together.entry(object).or_default();
                for other in objects.iter().filter(|other| *other != object) {
                    *others.entry(other).or_default() += 1;
                }
            }
        }
        let together = together
            .into_iter()
            .map(|(object, others)| (object, ranked(others)))
            .collect();
        Self {
            popular: ranked(popular),
            together,
        }
    }
}

/// Names by descending count, ties by name.
fn ranked(counts: HashMap<&str, usize>) -> Vec<&str> {
    let mut names: Vec<(Reverse<usize>, &str)> = counts
        .into_iter()
        .map(|(name, count)| (Reverse(count), name))
        .collect();
    names.sort_unstable();
    names.into_iter().map(|(_, name)| name).collect()
}

/// Pseudorandom number of an object (FNV-1a, finalized as in SplitMix64); the lowest ones are
/// drawn. A generator's state would depend on earlier draws, and the standard library's hasher on
/// its version.
fn draw(seed: u64, image: &str, object: &str) -> u64 {
    let bytes = seed
        .to_le_bytes()
        .into_iter()
        .chain(image.bytes())
        .chain([0])
        .chain(object.bytes());
    let hash = bytes.fold(0xCBF2_9CE4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}
