//! Hash tables of the lexicon.

use std::collections::{HashMap, HashSet};

use foldhash::fast::FixedState;

/// The tables are read for every word of every text and have trusted keys: a fast hash suffices.
pub(super) type Map<K, V> = HashMap<K, V, FixedState>;
pub(super) type Set<K> = HashSet<K, FixedState>;
