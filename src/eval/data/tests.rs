use std::{
    fs,
    path::{Path, PathBuf},
};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// Temporary folder with these files.
fn folder(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn references(name: &str, text: &str) -> Result<ReferenceSet, String> {
    let dir = folder(&[(name, text.as_bytes())]);
    ReferenceSet::open(&dir.path().join(name), None).map_err(|e| e.to_string())
}

fn hypotheses(text: &[u8]) -> Result<Hypotheses, String> {
    let dir = folder(&[("h.jsonl", text)]);
    Hypotheses::open(&dir.path().join("h.jsonl")).map_err(|e| e.to_string())
}

fn captions(text: &str) -> Vec<(String, String)> {
    hypotheses(text.as_bytes())
        .unwrap()
        .rows
        .into_iter()
        .map(|row| (row.image, row.caption))
        .collect()
}

/// Folder of the data beside the project, unless it is absent.
fn data(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/data")
        .join(name);
    if !path.exists() {
        println!("skipped: {} is absent", path.display());
    }
    path.exists().then_some(path)
}

const CAPTIONS: &str = concat!(
    r#"{"images": [{"id": 790, "file_name": "000000000790.jpg"}, "#,
    r#"{"id": 7, "file_name": "000000000007.jpg"}],"#,
    "\n ",
    r#""annotations": [{"image_id": 7, "caption": "A dog."}, "#,
    r#"{"image_id": 7, "caption": "A \"puppy\"."}]}"#,
);
const INSTANCES: &str = concat!(
    r#"{"images": [{"id": 7, "file_name": "000000000007.jpg"}, "#,
    r#"{"id": 8, "file_name": "000000000008.jpg"}],"#,
    "\n ",
    r#""annotations": [{"image_id": 7, "category_id": 18, "segmentation": [[1.5, 2]], "#,
    r#""bbox": [0, 0, 1, 1]}, {"image_id": 7, "category_id": 18}],"#,
    "\n ",
    r#""categories": [{"id": 18, "name": "dog", "supercategory": "animal"}]}"#,
);

#[test]
fn hypotheses_in_several_formats_are_read() {
    let want = [
        ("40468".to_owned(), "A dog.".to_owned()),
        ("a.jpg".to_owned(), String::new()),
    ];
    for text in [
        "{\"image_id\": 40468, \"caption\": \"A dog.\", \"guard\": {\"mode\": \
         [\"flag\"]}}\r\n\r\n{\"image\": \"a.jpg\", \"caption\": \"\"}\r\n",
        "\u{feff}{\"image_id\": \"40468\", \"text\": \"A dog.\"}\n{\"image\": \"a.jpg\", \"text\": \
         \"\", \"error\": \"late\"}",
        "[{\"image_id\": 40468, \"caption\": \"A dog.\"},\n {\"image_id\": \"a.jpg\", \"caption\": \
         \"\"}]",
    ] {
        assert_eq!(captions(text), want, "{text}");
    }
    let row = &hypotheses(br#"[{"image": "a", "caption": "x", "objects": ["dog", "cat", "dog"]}]"#)
        .unwrap()
        .rows[0];
    assert_eq!(
        row.objects.as_ref().unwrap().iter().collect::<Vec<_>>(),
        ["cat", "dog"]
    );
    assert_eq!(row.position, RowPosition::Element("", 0));
}

#[test]
fn invalid_hypothesis_is_named() {
    let good = r#"{"image_id": 1, "caption": "x"}"#;
    for (text, want) in [
        ("", "h.jsonl: the file is empty"),
        (" \n\n", "h.jsonl: the file is empty"),
        ("[]", "h.jsonl: it contains no caption"),
        (
            "{\"image_id\": 1}",
            "h.jsonl:1: 'caption' is missing, expected a string",
        ),
        (
            "{\"image_id\": 1, \"caption\": null}",
            "h.jsonl:1: 'caption' is null, expected a string",
        ),
        (
            "{\"image_id\": 1, \"caption\": [\"x\"]}",
            "h.jsonl:1: 'caption' is a list, expected a string",
        ),
        (
            "{\"image_id\": 1, \"text\": 3}",
            "h.jsonl:1: 'text' is an integer, expected a string",
        ),
        (
            "{\"caption\": \"x\"}",
            "h.jsonl:1: neither 'image_id' nor 'image' is present",
        ),
        (
            "{\"image_id\": 1.5, \"caption\": \"x\"}",
            "h.jsonl:1: 'image_id' is a number with a fraction, expected an integer or a string",
        ),
        (
            "{\"image\": \" \", \"caption\": \"x\"}",
            "h.jsonl:1: 'image' is empty, expected an integer or a string",
        ),
        (
            "{\"image\": \"a.jpg\", \"error\": \"not a JPEG\"}",
            "h.jsonl:1: 'a.jpg' has no caption but an error: not a JPEG",
        ),
        (
            "{\"image\": 1, \"caption\": \"x\", \"objects\": \"dog\"}",
            "h.jsonl:1: 'objects' is a string, expected a list of strings",
        ),
        (
            "{\"image\": 1, \"caption\": \"x\", \"objects\": [\"dog\", 3]}",
            "h.jsonl:1: 'objects[1]' is an integer",
        ),
        (
            "{\"image\": 1, \"caption\": \"x\"",
            "h.jsonl:1: broken JSON at column 27: EOF while parsing an object",
        ),
        (
            "{\"image\": 1, \"image\": 2}",
            "h.jsonl:1: unexpected JSON at column 20: duplicate field `image`",
        ),
        (
            "17",
            "h.jsonl:1: unexpected JSON at column 2: invalid type: integer `17`, expected an \
             object",
        ),
        (
            "[{\"image_id\": 1, \"caption\": \"x\"}, {\"image_id\": 2}]",
            "h.jsonl: [1]: 'caption' is missing",
        ),
        (
            "[{\"image_id\": 1,\n\"caption\": x}]",
            "h.jsonl:2: broken JSON at column 12: expected value",
        ),
    ] {
        let error = hypotheses(text.as_bytes()).unwrap_err();
        assert!(
            error.contains(want),
            "{text:?} gives {error}\nand not {want}"
        );
        let later = hypotheses(format!("{good}\n\n{text}").as_bytes());
        if want.contains(":1: ") {
            let want = want.replace(":1: ", ":3: ");
            assert!(
                later.is_err_and(|error| error.contains(&want)),
                "{text:?} two lines later"
            );
        }
    }
    let error =
        hypotheses(b"{\"image\": 1, \"caption\": \"x\"}\n{\"image\": 2, \"caption\": \"\xff\"}")
            .unwrap_err();
    assert!(
        error.contains("h.jsonl: line 2 is not UTF-8 (byte 54 of the file)"),
        "{error}"
    );
    assert!(
        Hypotheses::open(Path::new("absent/h.jsonl"))
            .unwrap_err()
            .to_string()
            .starts_with("absent/h.jsonl: ")
    );
}

#[test]
fn problems_beyond_twenty_are_only_counted() {
    let row = |i: usize| {
        if i.is_multiple_of(2) {
            format!("{{\"image_id\": {i}, \"caption\": \"x\"}}\n")
        } else {
            format!("{{\"image_id\": {i}}}\n")
        }
    };
    let error = hypotheses((0..1000).map(row).collect::<String>().as_bytes()).unwrap_err();
    assert_eq!(error.matches("'caption' is missing").count(), 20);
    assert!(
        error.contains("h.jsonl:2: ")
            && error.contains("h.jsonl:40: ")
            && !error.contains("h.jsonl:42: "),
        "{error}"
    );
    assert!(
        error.ends_with("500 problems in all, the first 20 are shown"),
        "{error}"
    );
    let two = hypotheses(b"{}\n{").unwrap_err();
    assert_eq!(
        two.lines().count(),
        2,
        "no total where all are shown: {two}"
    );
}

#[test]
fn references_in_rows_are_read() {
    let text = "{\"image_id\": 5, \"image\": \"a.b.jpg\", \"captions\": [\"A dog.\", \"A cat.\"], \
                \"objects\": [\"dog\"]}\n{\"image\": \"c\", \"caption\": \"x\"}\n{\"image\": \
                \"d\", \"objects\": []}";
    let set = references("r.jsonl", text).unwrap();
    let [first, second, third] = set.images() else {
        panic!()
    };
    assert_eq!(
        (first.id.as_str(), first.name(), first.captions.len()),
        ("5", "a.b.jpg", 2)
    );
    assert_eq!(first.objects, Some(BTreeSet::from(["dog".to_owned()])));
    assert_eq!(
        (second.captions.as_slice(), &second.objects, second.name()),
        (&["x".to_owned()][..], &None, "c")
    );
    assert_eq!(
        (third.captions.len(), &third.objects),
        (0, &Some(BTreeSet::new()))
    );
    assert_eq!(
        references("rows.json", text).unwrap().images(),
        set.images(),
        "rows are known by what they hold too"
    );
    assert_eq!(
        references("rows.json", &format!("[{}]", text.replace('\n', ",")))
            .unwrap()
            .images(),
        set.images()
    );
    for (text, want) in [
        (
            "{\"image\": \"a\"}",
            "r.jsonl:1: 'a' has neither captions nor objects",
        ),
        (
            "{\"image\": \"a\", \"captions\": [\"x\", 3]}",
            "r.jsonl:1: 'captions[1]' is an integer, expected a string",
        ),
        (
            "{\"image\": \"a\", \"captions\": \"x\"}",
            "r.jsonl:1: 'captions' is a string, expected a list",
        ),
        (
            "{\"image\": \"a\", \"caption\": \"x\"}\n{\"image_id\": \"a\", \"caption\": \"y\"}",
            "r.jsonl:2: image 'a' is repeated in line 1",
        ),
    ] {
        let error = references("r.jsonl", text).unwrap_err();
        assert!(error.contains(want), "{text} gives {error}");
    }
}

#[test]
fn image_is_found_by_any_of_its_names() {
    let row = |id: &str, name: &str| {
        format!("{{\"image_id\": {id}, \"image\": \"{name}\", \"caption\": \"x\"}}\n")
    };
    let text = row("790", "000000000790.jpg")
        + &row("\"v1.2\"", "COCO_val2014_000000000042.JPG")
        + &row("\"p\"", "s/one.png")
        + &row("\"q\"", "one.jpg");
    let set = references("r.jsonl", &text).unwrap();
    for (name, id) in [
        ("790", Some("790")),
        ("0790", Some("790")),
        ("000000000790", Some("790")),
        ("photos/000000000790.jpg", Some("790")),
        ("C:\\photos\\000000000790.png", Some("790")),
        ("COCO_train2014_000000000790.jpg", Some("790")),
        ("v1.2", Some("v1.2")),
        ("v1.3", None),
        ("42", Some("v1.2")),
        ("one.jpg", Some("q")),
        ("s/one.png", Some("p")),
        ("one", None),
        ("791", None),
        ("", None),
    ] {
        assert_eq!(set.get(name).map(|image| image.id.as_str()), id, "{name}");
    }
    assert!(set.find("one").unwrap_err().contains("matches several"));
    let zero = references("r.jsonl", &row("\"z\"", "000.jpg")).unwrap();
    assert!(zero.get("0").is_some());
    let shadow = references(
        "r.jsonl",
        &(row("1", "000000000002.jpg") + &row("2", "000000000001.jpg")),
    )
    .unwrap();
    assert_eq!(
        shadow.get("2").unwrap().id,
        "2",
        "an id is surer than a file name"
    );
}

#[test]
fn coco_folder_with_or_without_annotations_folder_is_read() {
    let files: &[(&str, &[u8])] = &[
        ("annotations/captions_val.json", CAPTIONS.as_bytes()),
        ("annotations/instances_val.json", INSTANCES.as_bytes()),
        ("val/000000000007.jpg", b""),
    ];
    let dir = folder(files);
    let set = ReferenceSet::open(dir.path(), None).unwrap();
    let [first, second, third] = set.images() else {
        panic!()
    };
    assert_eq!(
        (first.id.as_str(), &first.objects, first.captions.len()),
        ("790", &None, 0),
        "nobody looked for its objects"
    );
    assert_eq!(
        (second.captions.as_slice(), &second.objects),
        (
            &["A dog.".to_owned(), "A \"puppy\".".to_owned()][..],
            &Some(["dog".to_owned()].into())
        )
    );
    assert_eq!(
        (third.id.as_str(), &third.objects),
        ("8", &Some(BTreeSet::new()))
    );
    assert_eq!(
        (second.photo.clone(), &first.photo),
        (Some(dir.path().join("val/000000000007.jpg")), &None)
    );
    assert_eq!(
        ReferenceSet::open(dir.path(), Some("val"))
            .unwrap()
            .images(),
        set.images()
    );
    let file = ReferenceSet::open(&dir.path().join("annotations/captions_val.json"), None).unwrap();
    assert_eq!(file.images().len(), 2);
    let error = |dir: &Path, split| ReferenceSet::open(dir, split).unwrap_err().to_string();
    assert!(error(dir.path(), Some("train")).contains("no split 'train', found: val"));
    assert!(
        error(
            &dir.path().join("annotations/captions_val.json"),
            Some("val")
        )
        .contains("only folders have splits")
    );
    fs::write(dir.path().join("captions.json"), CAPTIONS).unwrap();
    assert!(error(dir.path(), None).contains("several splits, name one of them: (none), val"));
    assert_eq!(
        ReferenceSet::open(dir.path(), Some("val"))
            .unwrap()
            .images(),
        set.images()
    );
    fs::write(dir.path().join("captions_val.json"), CAPTIONS).unwrap();
    assert!(
        error(dir.path(), Some("val")).contains("have the same kind and split"),
        "no caption is counted twice"
    );
    assert!(error(folder(&[]).path(), None).contains("expected captions.tsv"));
}

#[test]
fn invalid_coco_file_is_named() {
    for (from, to, want) in [
        (
            "\"image_id\": 7",
            "\"image_id\": {}",
            "c.json: annotations[0]: 'image_id' is an object",
        ),
        (
            "\"A dog.\"",
            "null",
            "c.json: annotations[0]: 'caption' is null",
        ),
        (
            "\"id\": 7,",
            "\"id\": 790,",
            "c.json: images[1]: image '790' is repeated at images[0]",
        ),
        (
            "\"file_name\": \"000000000007.jpg\"",
            "\"file_name\": 3",
            "c.json: images[1]: 'file_name' is an integer",
        ),
        (
            "\"annotations\"",
            "\"notes\"",
            "c.json:2: unexpected JSON at column 93: missing field `annotations`",
        ),
        (
            "\"annotations\": [",
            "\"annotations\": [3, ",
            "c.json:2: unexpected JSON at column 18: invalid type: integer `3`, expected an object",
        ),
        (
            "]}",
            "]",
            "c.json:2: broken JSON at column 98: EOF while parsing an object",
        ),
    ] {
        assert!(CAPTIONS.contains(from));
        let error = references("c.json", &CAPTIONS.replace(from, to)).unwrap_err();
        assert!(error.contains(want), "{to} gives {error}");
    }
    let error = references("c.json", &INSTANCES.replace("\"id\": 18", "\"id\": 17")).unwrap_err();
    assert!(
        error.contains("c.json: annotations[1]: '18' is not one of the file's categories"),
        "{error}"
    );
    let renamed = INSTANCES.replace("\"000000000007.jpg\"", "\"b.jpg\"");
    let dir = folder(&[
        ("captions.json", CAPTIONS.as_bytes()),
        ("instances.json", renamed.as_bytes()),
    ]);
    let error = ReferenceSet::open(dir.path(), None)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(
            "instances.json: images[0]: image '7' is 'b.jpg' here and \
                            '000000000007.jpg' in the captions"
        ),
        "{error}"
    );
}

#[test]
fn coco_file_is_read_as_leniently_as_by_pycocotools() {
    let captions = |text: &str| -> Vec<(String, Vec<String>)> {
        let set = references("c.json", text).unwrap();
        set.images()
            .iter()
            .map(|image| (image.id.clone(), image.captions.clone()))
            .collect()
    };
    let want = [("1".to_owned(), vec!["A ball.".to_owned()])];
    for text in [
        r#"{"annotations": [{"image_id": 1, "id": 1, "caption": "A ball."}],
          "images": [{"id": 1}]}"#,
        r#"{"annotations": [{"image_id": 1.0, "id": 1e0, "caption": "A ball."}],
          "images": [{"id": 1.0, "file_name": null, "width": 2.5}]}"#,
        r#"{"info": {}, "licenses": [], "annotations": [{"image_id": 1, "caption": "A ball."}]}"#,
        r#"{"images": [{"id": "1"}], "annotations": [{"image_id": 1, "caption": "A ball."},
          {"image_id": 1, "caption": " "}, {"image_id": 2, "caption": "Gone."}]}"#,
    ] {
        assert_eq!(captions(text), want, "{text}");
    }
    let text = r#"{"images": [{"id": 1}, {"id": -2}], "annotations": [{"image_id": 1,
      "caption": ""}, {"image_id": 1, "caption": "\n"}, {"image_id": -2, "caption": "x"},
      {"image_id": 3, "caption": "y"}]}"#;
    let set = references("c.json", text).unwrap();
    assert_eq!(
        (set.images()[0].captions.len(), set.images()[1].id.as_str()),
        (0, "-2")
    );
    let [empty, unlisted] = set.notes() else {
        panic!("{:?}", set.notes())
    };
    assert!(
        empty == "Empty reference captions, left out: 2."
            && unlisted.ends_with("do not list, left out: 1."),
        "{:?}",
        set.notes()
    );
    assert!(references("c.json", CAPTIONS).unwrap().notes().is_empty());
    let crowd = INSTANCES.replace(
        "\"segmentation\": [[1.5, 2]]",
        "\"segmentation\": {\"counts\": [1, 2], \"size\": [3, 4]}, \"iscrowd\": 1, \"area\": 0.5",
    );
    assert_eq!(
        references("c.json", &crowd).unwrap().images()[0].objects,
        Some(["dog".to_owned()].into())
    );
    let rows = hypotheses(
        br#"[{"image_id": 1.0, "caption": "A ball.", "id": 3, "score": 0.5},
          {"image_id": 2, "caption": "", "extra": null}]"#,
    )
    .unwrap();
    assert_eq!(
        rows.rows
            .iter()
            .map(|row| row.image.as_str())
            .collect::<Vec<_>>(),
        ["1", "2"]
    );
    let rows = references(
        "r.jsonl",
        "{\"image\": \"a\", \"captions\": [\"x\", \" \"]}\n{\"image\": \"b\", \"caption\": \"\"}",
    )
    .unwrap();
    assert_eq!(
        rows.images()
            .iter()
            .map(|image| image.captions.len())
            .collect::<Vec<_>>(),
        [1, 0]
    );
    assert_eq!(rows.notes(), ["Empty reference captions, left out: 2."]);
}

#[test]
fn boxes_of_an_image_with_known_size_are_relative() {
    let text = r#"{"images": [{"id": 7, "width": 200, "height": 100}, {"id": 8}, {"id": 9,
      "width": "wide", "height": 100}],
     "annotations": [{"image_id": 7, "category_id": 18, "bbox": [50, 20.5, 100, 25], "iscrowd": 0},
      {"image_id": 7, "category_id": 18, "bbox": [0, 0, 20, 10], "iscrowd": 1}, {"image_id": 7,
        "category_id": 18, "bbox": [0, 0, 0, 10]},
      {"image_id": 7, "category_id": 18, "bbox": "none"}, {"image_id": 7, "category_id": 18},
        {"image_id": 8, "category_id": 18, "bbox": [0, 0, 1, 1]},
      {"image_id": 9, "category_id": 18, "bbox": [0, 0, 1, 1]}],
     "categories": [{"id": 18, "name": "dog"}]}"#;
    let set = references("c.json", text).unwrap();
    let dog = |left, top, width, height, is_crowd| ObjectBox {
        object: "dog".into(),
        rect: Rect {
            left,
            top,
            width,
            height,
        },
        is_crowd,
    };
    assert_eq!(
        set.images()[0].boxes,
        [
            dog(0.25, 0.205, 0.5, 0.25, false),
            dog(0.0, 0.0, 0.1, 0.1, true)
        ]
    );
    for image in &set.images()[1..] {
        assert_eq!(
            (&image.boxes, &image.objects),
            (&Vec::new(), &Some(["dog".to_owned()].into()))
        );
    }
}

#[test]
fn overlap_of_rectangles_is_their_common_area() {
    let rect = |left, top, width, height| Rect {
        left,
        top,
        width,
        height,
    };
    let half = rect(0.0, 0.0, 0.5, 1.0);
    assert_eq!(half.area(), 0.5);
    assert_eq!(half.overlap(&rect(0.25, 0.5, 0.5, 0.5)), 0.125);
    assert_eq!(half.overlap(&rect(0.5, 0.0, 0.5, 1.0)), 0.0);
    assert_eq!(half.overlap(&rect(0.75, 0.0, 0.25, 1.0)), 0.0);
    assert_eq!(
        half.overlap(&rect(0.125, 0.25, 0.25, 0.5)),
        0.125,
        "what is inside overlaps wholly"
    );
}

#[test]
fn coco_photograph_named_in_one_file_is_found() {
    let unnamed = INSTANCES.replace(", \"file_name\": \"000000000007.jpg\"", "");
    let files: &[(&str, &[u8])] = &[
        ("captions.json", CAPTIONS.as_bytes()),
        ("instances.json", unnamed.as_bytes()),
        ("images/000000000007.jpg", b""),
    ];
    for files in [
        files,
        &[
            ("captions.json", unnamed.as_bytes()),
            ("instances.json", CAPTIONS.as_bytes()),
            files[2],
        ],
    ] {
        let set = ReferenceSet::open(folder(files).path(), None).unwrap();
        let image = set.get("7").unwrap();
        assert!(
            image.photo.is_some() && image.captions.len() == 2 && image.objects.is_some(),
            "{image:?}"
        );
    }
}

#[test]
fn coco_split_may_be_a_list_of_names() {
    let files: &[(&str, &[u8])] = &[
        ("captions.json", CAPTIONS.as_bytes()),
        ("test.txt", b"7\n"),
        ("bad.txt", b"790\n9\n"),
    ];
    let dir = folder(files);
    let set = ReferenceSet::open(dir.path(), Some("test")).unwrap();
    assert_eq!(
        set.images()
            .iter()
            .map(|image| image.id.as_str())
            .collect::<Vec<_>>(),
        ["7"]
    );
    let error = ReferenceSet::open(dir.path(), Some("bad"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("bad.txt:2: '9' is not an image of the references"),
        "{error}"
    );
}

#[test]
fn pair_matches_hypotheses_with_references() {
    let set = references("c.json", CAPTIONS).unwrap();
    let open = |text: &str| hypotheses(text.as_bytes()).unwrap();
    let both = open(
        "[{\"image_id\": 7, \"caption\": \"x\"}, {\"image_id\": \"000000000790.jpg\", \"caption\": \
         \"y\"}]",
    );
    let paired = pair(&set, &both, false).unwrap();
    let names: Vec<_> = paired
        .pairs
        .iter()
        .map(|(image, row)| (image.id.as_str(), row.caption.as_str()))
        .collect();
    assert_eq!(
        (names, paired.missing),
        (vec![("7", "x"), ("790", "y")], 0),
        "in the hypotheses' order"
    );
    let one = open("{\"image_id\": 7, \"caption\": \"x\"}");
    assert_eq!(pair(&set, &one, true).unwrap().missing, 1);
    for (text, partial, want) in [
        (
            "{\"image_id\": 7, \"caption\": \"x\"}",
            false,
            "h.jsonl: no caption for '000000000790.jpg'",
        ),
        (
            "{\"image_id\": 7, \"caption\": \"x\"}\n{\"image_id\": 9, \"caption\": \"x\"}",
            true,
            "h.jsonl:2: '9' is not an image of the references",
        ),
        (
            "{\"image_id\": 7, \"caption\": \"x\"}\n{\"image\": \"07\", \"caption\": \"x\"}",
            true,
            "h.jsonl:2: '07' already has a caption in line 1",
        ),
    ] {
        let rows = open(text);
        let error = pair(&set, &rows, partial).unwrap_err().to_string();
        assert!(error.contains(want), "{text} gives {error}");
    }
}

#[test]
fn rows_with_objects_are_their_own_references() {
    let rows = hypotheses(
        b"{\"image\": 1, \"caption\": \"x\", \"objects\": \
                            [\"dog\"]}\n{\"image\": 2, \"caption\": \"y\"}\n{\"image\": 1, \
                            \"caption\": \"z\", \"objects\": []}",
    )
    .unwrap();
    let error = ReferenceSet::from_rows(&rows).unwrap_err().to_string();
    assert!(
        error.contains("h.jsonl:2: '2' has no 'objects', and no references were given"),
        "{error}"
    );
    assert!(
        error.contains("h.jsonl:3: image '1' is repeated in line 1"),
        "{error}"
    );
}

#[test]
fn chair_captions_have_their_objects() {
    let Some(dir) = data("chair") else { return };
    for file in ["instructblip_i1.jsonl", "minigpt-4_i1.jsonl"] {
        let rows = Hypotheses::open(&dir.join(file)).unwrap();
        let set = ReferenceSet::from_rows(&rows).unwrap();
        let paired = pair(&set, &rows, false).unwrap();
        assert_eq!((paired.pairs.len(), paired.missing), (2000, 0));
        assert!(
            paired
                .pairs
                .iter()
                .all(|(image, row)| image.objects == row.objects && image.captions.is_empty())
        );
        let (image, _) = paired.pairs[2];
        assert_eq!(
            (image.id.as_str(), image.objects.as_ref().unwrap().len()),
            ("454161", 4)
        );
    }
}

#[test]
fn real_coco_folder_is_read() {
    let Some(dir) = data("coco-mini") else { return };
    let set = ReferenceSet::open(&dir, None).unwrap();
    let images = set.images();
    assert_eq!((images.len(), images[0].id.as_str()), (209, "493652"));
    assert_eq!(
        images
            .iter()
            .filter(|image| !image.captions.is_empty())
            .count(),
        130
    );
    assert_eq!(
        images
            .iter()
            .map(|image| image.captions.len())
            .sum::<usize>(),
        650
    );
    assert!(
        images
            .iter()
            .all(|image| image.photo.as_ref().is_some_and(|path| path.is_file()))
    );
    let objects: Vec<usize> = images
        .iter()
        .map(|image| image.objects.as_ref().unwrap().len())
        .collect();
    assert_eq!(
        (
            objects.iter().filter(|&&n| n == 0).count(),
            objects.iter().filter(|&&n| n >= 3).count()
        ),
        (1, 144)
    );
    assert_eq!(
        set.get("790").map(AnnotatedImage::name),
        Some("000000000790.jpg")
    );
    let captions = ReferenceSet::open(&dir.join("captions.json"), None).unwrap();
    assert!(
        captions
            .images()
            .iter()
            .zip(images)
            .all(|(a, b)| a.captions == b.captions && a.objects.is_none() && a.photo == b.photo)
    );
}

#[test]
fn real_flickr8k_folder_is_read() {
    let Some(dir) = data("flickr8k") else { return };
    let dev = ReferenceSet::open(&dir, None).unwrap();
    assert_eq!(
        (dev.images().len(), dev.images()[0].id.as_str()),
        (1000, "2090545563_a4e66ec76b.jpg")
    );
    assert!(dev.images().iter().all(|image| image.captions.len() == 5
        && image.objects.is_none()
        && image.photo.is_some()));
    assert_eq!(
        dev.get("out/2090545563_a4e66ec76b")
            .map(AnnotatedImage::name),
        Some("2090545563_a4e66ec76b.jpg")
    );
    let train = ReferenceSet::open(&dir, Some("train")).unwrap();
    assert_eq!(train.images().len(), 6000);
    assert!(
        train
            .images()
            .iter()
            .all(|image| dev.get(&image.id).is_none())
    );
    let error = ReferenceSet::open(&dir, Some("test"))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no split 'test', found: dev, train"),
        "{error}"
    );
}

proptest! {
    #[test]
    fn any_caption_survives_a_round_trip(
        rows in prop::collection::btree_map("[a-z0-9]{1,8}", "\\PC{0,30}", 1..10),
        array in any::<bool>(),
    ) {
        let json: Vec<String> = rows.iter()
            .map(|(image, caption)| serde_json::json!({"image": image, "caption": caption})
                .to_string()).collect();
        let text = if array { format!("[{}]", json.join(",")) } else { json.join("\n") };
        prop_assert_eq!(captions(&text), rows.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn readers_of_any_text_do_not_panic(text in "[\\[\\]{}\":, a-z0-9\n]{0,60}") {
        let _ = (hypotheses(text.as_bytes()), references("r.json", &text),
            references("r.jsonl", &text));
    }
}
