use std::{fs, path::Path, thread};

use tempfile::{TempDir, tempdir};

use super::*;

/// Two small bundles: what matters here is their `config.json`.
fn bundle(into: &Path, name: &str, weights: &[u8]) -> std::path::PathBuf {
    let dir = into.join(name);
    fs::create_dir_all(&dir).unwrap();
    fs::copy(
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/models/candor-mini/config.json"
        ),
        dir.join("config.json"),
    )
    .unwrap();
    fs::write(dir.join("model.safetensors"), weights).unwrap();
    dir
}

fn registry() -> (TempDir, Registry) {
    let dir = tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry")).unwrap();
    (dir, registry)
}

fn facts() -> VersionFacts {
    VersionFacts {
        parents: vec!["candor-mini-000000000000".to_owned()],
        data: [("corrections".to_owned(), "ab".repeat(32))].into(),
        figures: [("chair_i".to_owned(), 0.25)].into(),
        baseline: [("chair_i".to_owned(), 0.3125)].into(),
        reasons: vec!["It invents less.".to_owned()],
        rejected: false,
    }
}

#[test]
fn version_id_depends_on_content_and_parents() {
    let (dir, registry) = registry();
    let (one, two) = (
        bundle(dir.path(), "one", b"weights"),
        bundle(dir.path(), "two", b"weights"),
    );
    let first = registry.register(&one, facts()).unwrap();
    assert!(
        first.id.starts_with("candor-mini-") && first.id.len() == "candor-mini-".len() + 12,
        "{}",
        first.id
    );
    assert_eq!(
        registry
            .register(
                &two,
                VersionFacts {
                    rejected: true,
                    ..facts()
                }
            )
            .unwrap(),
        first,
        "what is registered does not change"
    );
    let other = registry
        .register(
            &two,
            VersionFacts {
                parents: vec![first.id.clone()],
                ..facts()
            },
        )
        .unwrap();
    assert_ne!(other.id, first.id);
    assert_eq!(first.files["model.safetensors"].bytes, 7);
    assert!(
        fs::metadata(registry.bundle_dir(&first).join("model.safetensors"))
            .unwrap()
            .permissions()
            .readonly()
    );
    assert_eq!(registry.versions().unwrap().len(), 2);
    assert_eq!(
        registry.get(&first.id[..first.id.len() - 1]).unwrap(),
        first
    );
    assert!(matches!(registry.get("candor-mini"),
            Err(RegistryError::Ambiguous { ids, .. }) if ids.len() == 2));
    assert!(matches!(
        registry.get("../versions"),
        Err(RegistryError::Unknown(_))
    ));
    assert!(matches!(registry.get(""), Err(RegistryError::Unknown(_))));
    let card = registry.card(&first).unwrap();
    for said in [
        first.id.as_str(),
        "| chair_i | 0.2500 | 0.3125 | -0.0625 |",
        "It invents less.",
        &"ab".repeat(32),
        "model.safetensors",
    ] {
        assert!(card.contains(said), "{said}: {card}");
    }
}

#[test]
fn embedded_bundle_is_registered_and_invalid_one_refused() {
    let (dir, registry) = registry();
    let version = registry
        .register(Path::new("candor-mini"), VersionFacts::default())
        .unwrap();
    registry.verify(&version).unwrap();
    assert!(
        version.files.contains_key("reward.safetensors") && version.files.contains_key("card.md")
    );
    let nothing = registry
        .register(&dir.path().join("nothing"), VersionFacts::default())
        .unwrap_err();
    assert!(
        nothing.to_string().contains("there is no model"),
        "{nothing}"
    );
    let nan = VersionFacts {
        figures: [("bleu".to_owned(), f64::NAN)].into(),
        ..VersionFacts::default()
    };
    let refused = registry
        .register(&bundle(dir.path(), "one", b"x"), nan)
        .unwrap_err();
    assert!(refused.to_string().contains("bleu"), "{refused}");
    assert_eq!(registry.versions().unwrap(), [version]);
    assert_eq!(
        fs::read_dir(registry.root().join("versions"))
            .unwrap()
            .count(),
        1,
        "nothing is left of it"
    );
}

#[test]
fn changed_or_missing_file_is_named() {
    let (dir, registry) = registry();
    let version = registry
        .register(
            &bundle(dir.path(), "one", b"weights"),
            VersionFacts::default(),
        )
        .unwrap();
    registry.verify(&version).unwrap();
    let file = registry.bundle_dir(&version).join("model.safetensors");
    fs::remove_file(&file).unwrap();
    assert!(
        registry
            .verify(&version)
            .unwrap_err()
            .to_string()
            .contains("model.safetensors is missing")
    );
    fs::write(&file, b"heights").unwrap();
    let damaged = registry.verify(&version).unwrap_err().to_string();
    assert!(
        damaged.contains("model.safetensors has another content") && damaged.contains(&version.id),
        "{damaged}"
    );
}

#[test]
fn leftovers_of_a_killed_process_are_removed() {
    let (dir, registry) = registry();
    let left = registry.root().join("versions/.new-4f1c");
    fs::create_dir_all(left.join("bundle")).unwrap();
    fs::write(left.join("manifest.json"), b"{\"id\": \"half").unwrap();
    fs::write(registry.root().join("state.new"), b"{\"promo").unwrap();
    assert!(registry.versions().unwrap().is_empty());
    let version = registry
        .register(
            &bundle(dir.path(), "one", b"weights"),
            VersionFacts::default(),
        )
        .unwrap();
    assert!(!left.exists());
    assert_eq!(
        registry.promote(&version.id, false).unwrap().promoted,
        Some(version.id)
    );
}

#[test]
fn rollback_undoes_promotions_one_by_one() {
    let (dir, registry) = registry();
    let ids: Vec<String> = (0..3u8)
        .map(|i| {
            registry
                .register(
                    &bundle(dir.path(), &format!("{i}"), &[i]),
                    VersionFacts::default(),
                )
                .unwrap()
                .id
        })
        .collect();
    assert!(matches!(
        registry.rollback(),
        Err(RegistryError::NonePromoted)
    ));
    ids.iter()
        .for_each(|id| drop(registry.promote(id, false).unwrap()));
    registry.promote(&ids[2], false).unwrap();
    assert_eq!(
        registry.state().unwrap().previous,
        ids[..2],
        "promoted twice is promoted once"
    );
    let error = registry.rollback_from(&ids[0]).unwrap_err();
    assert!(error.to_string().contains(&ids[2]), "{error}");
    assert_eq!(
        registry.rollback_from(&ids[2]).unwrap().promoted.as_ref(),
        Some(&ids[1])
    );
    assert_eq!(
        registry.rollback().unwrap().promoted.as_ref(),
        Some(&ids[0])
    );
    assert_eq!(registry.rollback().unwrap(), RegistryState::default());
    assert_eq!(
        Registry::open(registry.root()).unwrap().state().unwrap(),
        RegistryState::default()
    );
}

#[test]
fn rejected_version_needs_force() {
    let (dir, registry) = registry();
    let reasons = vec!["recall fell by 2 points".to_owned()];
    let rejected = VersionFacts {
        rejected: true,
        reasons,
        ..VersionFacts::default()
    };
    let version = registry
        .register(&bundle(dir.path(), "one", b"x"), rejected)
        .unwrap();
    let error = registry
        .promote(&version.id, false)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("recall fell by 2 points") && error.contains("--force"),
        "{error}"
    );
    assert_eq!(registry.state().unwrap(), RegistryState::default());
    assert_eq!(
        registry.promote(&version.id, true).unwrap().promoted,
        Some(version.id)
    );
}

#[test]
fn shadow_ends_when_promoted() {
    let (dir, registry) = registry();
    let id = registry
        .register(&bundle(dir.path(), "one", b"x"), VersionFacts::default())
        .unwrap()
        .id;
    for share in [-0.5, 1.5, f64::NAN] {
        assert!(
            matches!(
                registry.set_shadow(&id, share),
                Err(RegistryError::Share(_))
            ),
            "{share}"
        );
    }
    assert_eq!(
        registry.set_shadow(&id, 0.05).unwrap().shadow,
        Some(ShadowVersion {
            id: id.clone(),
            share: 0.05
        })
    );
    assert_eq!(registry.state().unwrap().shadow.unwrap().share, 0.05);
    assert_eq!(registry.promote(&id, false).unwrap().shadow, None);
    registry.rollback().unwrap();
    registry.set_shadow(&id, 1.0).unwrap();
    assert_eq!(registry.clear_shadow().unwrap(), RegistryState::default());
    registry.set_shadow(&id, 0.5).unwrap();
    assert_eq!(registry.set_shadow(&id, 0.0).unwrap().shadow, None);
}

#[test]
fn concurrent_promotions_are_serialized() {
    let (dir, registry) = registry();
    let ids: Vec<String> = (0..8u8)
        .map(|i| {
            registry
                .register(
                    &bundle(dir.path(), &format!("{i}"), &[i]),
                    VersionFacts::default(),
                )
                .unwrap()
                .id
        })
        .collect();
    thread::scope(|scope| {
        for id in &ids {
            let registry = Registry::open(registry.root()).unwrap();
            scope.spawn(move || registry.promote(id, false).unwrap());
        }
    });
    let RegistryState {
        promoted, previous, ..
    } = registry.state().unwrap();
    let mut seen: Vec<String> = previous.into_iter().chain(promoted).collect();
    seen.sort();
    let mut expected = ids.clone();
    expected.sort();
    assert_eq!(seen, expected, "no promotion is lost");
}

#[test]
fn concurrent_registrations_of_one_bundle_are_one_version() {
    let (dir, registry) = registry();
    let from = bundle(dir.path(), "one", &[7; 100_000]);
    let ids: Vec<String> = thread::scope(|scope| {
        let register = || {
            registry
                .register(&from, VersionFacts::default())
                .unwrap()
                .id
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(register)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(ids.iter().all(|id| *id == ids[0]));
    assert_eq!(
        fs::read_dir(registry.root().join("versions"))
            .unwrap()
            .count(),
        1
    );
    registry.verify(&registry.get(&ids[0]).unwrap()).unwrap();
}

#[test]
fn surplus_versions_are_neither_in_use_nor_new() {
    let (dir, registry) = registry();
    for i in 0..8u8 {
        let bundle = bundle(dir.path(), &format!("b{i}"), &[i]);
        registry.register(&bundle, facts()).unwrap();
    }
    let all = || -> Vec<String> {
        let versions = registry.versions().unwrap().into_iter();
        versions.map(|version| version.id).collect()
    };
    let sorted = all();
    for id in [&sorted[0], &sorted[1], &sorted[2]] {
        registry.promote(id, false).unwrap();
    }
    registry.set_shadow(&sorted[3], 0.5).unwrap();
    let surplus = |keep| -> Vec<String> {
        let surplus = registry.surplus(keep).unwrap().into_iter();
        surplus.map(|version| version.id).collect()
    };
    assert_eq!(surplus(0), [""; 0]);
    assert_eq!(surplus(20), [""; 0]);
    // Promoted: 2; before it: 1; its shadow: 3; newest: 7.
    assert_eq!(surplus(1), [0, 4, 5, 6].map(|i| sorted[i].clone()));
    let old = surplus(1);
    let ids: Vec<&str> = old.iter().map(|id| &**id).collect();
    registry
        .remove(&[&ids[..], &[&*sorted[2], &*sorted[3]]].concat())
        .unwrap();
    let left = all();
    assert_eq!(left.len(), 4, "{left:?}");
    assert!([1, 2, 3, 7].iter().all(|&i| left.contains(&sorted[i])));
    let state = registry.rollback().unwrap();
    assert_eq!(state.promoted.as_ref(), Some(&sorted[1]));
    assert_eq!(
        state.previous, [""; 0],
        "what is gone cannot be rolled back to"
    );
    let folders = fs::read_dir(registry.root().join("versions")).unwrap();
    assert_eq!(folders.count(), 4, "nothing is left of those removed");
}
