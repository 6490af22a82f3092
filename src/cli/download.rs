//! Downloads of models from the Hub, with progress.

use std::{collections::HashMap, path::Path};

use indicatif::{HumanBytes, ProgressBar};

use super::{
    Failure,
    common::variables,
    output::{note, progress},
};
use crate::{
    bundle::Bundle,
    vlm::weights::hub::{Hub, Progress, RepoId},
};

const BAR: &str = "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} ({eta})";

/// Downloads what a model's name asks for, with progress, if it is a repository on the Hub. What
/// is there already is not asked for again.
pub(super) fn fetch_model(name: &str) -> Result<(), Failure> {
    let is_local = Bundle::embedded().contains(&name) || Path::new(name).exists();
    let Some(repo) = name.parse::<RepoId>().ok().filter(|_| !is_local) else {
        return Ok(());
    };
    let set: HashMap<String, String> = variables().collect();
    let hub = Hub::from_variables(|name| set.get(name).cloned()).map_err(Failure::misused)?;
    let Err(error) = hub.pull(&repo, None, &mut Downloads::default()) else {
        return Ok(());
    };
    // What was downloaded before serves as well.
    match hub.offline().pull(&repo, None, &mut ()) {
        Ok(_) => {
            note(format_args!("{error}; the local copy is used"));
            Ok(())
        }
        Err(_) => Err(Failure::failed(error)),
    }
}

/// Progress of downloads on standard error: bars on a terminal, else a line a file.
#[derive(Default)]
pub(super) struct Downloads {
    name: String,
    bar: Option<ProgressBar>,
}

impl Progress for Downloads {
    fn init(&mut self, size: usize, name: &str) {
        // A download that starts again is the same file's.
        if self.name == name {
            self.bar.iter().for_each(|bar| bar.set_position(0));
            return;
        }
        name.clone_into(&mut self.name);
        let bar = progress(size, BAR).with_message(self.name.clone());
        if bar.is_hidden() {
            note(format_args!("{name} ({})", HumanBytes(size as u64)));
        }
        self.bar = Some(bar);
    }

    fn update(&mut self, size: usize) {
        self.bar.iter().for_each(|bar| bar.inc(size as u64));
    }

    fn finish(&mut self) {
        self.bar.iter().for_each(ProgressBar::finish);
    }
}
