//! Which key may do what: on every route, and with the receipts, records, items of the queue and
//! photographs of every owner.

use std::collections::BTreeSet;

use candor::{
    config::{ApiKey, Auto, Config, KeyScope, KeyScopes},
    serve::{METRICS, Permission, ROUTES},
};
use image::ImageFormat;
use serde_json::{Value, json};

use crate::{
    cli::candor,
    http::{JSON, Reply, exchange, get, request},
    served::{Served, and, ask, data_url, eventually, picture},
};

fn secret(name: &str) -> String {
    format!("sk-{name}-0123456789")
}

fn key(name: &str, owner: &str, scopes: &[KeyScope]) -> ApiKey {
    let key = ApiKey::new(name, &secret(name));
    ApiKey {
        owner: Auto::Value(owner.to_owned()),
        scopes: KeyScopes::new(scopes.iter().copied()),
        ..key
    }
}

/// Asks with a key; `none` is without one.
fn asked(served: &Served, key: &str, method: &str, path: &str, body: &Value) -> Reply {
    let bearer = format!("Bearer {}", secret(key));
    let headers: Vec<_> = [JSON]
        .into_iter()
        .chain((key != "none").then_some(("authorization", bearer.as_str())))
        .collect();
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    exchange(served.at, &request(method, path, &headers, body.as_bytes()))
}

/// A key of each scope alone, and the administrator's own, which is `root`.
fn each_scope_alone(config: &mut Config) {
    let keys = ["complete", "score", "write", "read", "annotate", "admin"];
    config.keys = keys
        .into_iter()
        .zip(KeyScope::ALL)
        .map(|(name, scope)| key(name, "a", &[scope]))
        .collect();
    config.admin.key_sha256 = ApiKey::new("root", &secret("root")).key_sha256;
}

/// What is answered to whom: the status of a refusal, or `ok` for whatever else the route has to
/// say. The server listens on loopback.
const BY_ROUTE: &str = "
                                  none wrong complete score write read annotate admin root
POST /v1/chat/completions         401  401   ok       403   403   403  403      403   403
POST /v1/score                    401  401   403      ok    403   403  403      403   403
POST /v1/feedback                 401  401   403      403   ok    403  403      403   403
GET /v1/feedback                  401  401   403      403   ok    ok   403      403   403
DELETE /v1/feedback               401  401   403      403   ok    ok   403      403   403
GET /v1/feedback/export           401  401   403      403   ok    ok   403      403   403
GET /v1/feedback/{id}             401  401   403      403   ok    ok   403      403   403
DELETE /v1/feedback/{id}          401  401   403      403   ok    ok   403      403   403
GET /v1/queue                     401  401   403      403   403   403  ok       403   403
POST /v1/queue/next               401  401   403      403   403   403  ok       403   403
POST /v1/queue/{id}/release       401  401   403      403   403   403  ok       403   403
POST /v1/queue/{id}/skip          401  401   403      403   403   403  ok       403   403
GET /v1/agreement                 401  401   403      403   403   ok   403      403   403
GET /v1/key                       401  401   ok       ok    ok    ok   ok       ok    ok
GET /v1/models                    401  401   ok       ok    ok    ok   ok       ok    ok
GET /v1/models/{id}               401  401   ok       ok    ok    ok   ok       ok    ok
GET /admin/models                 401  401   403      403   403   403  403      ok    ok
POST /admin/models/{id}/promote   401  401   403      403   403   403  403      ok    ok
POST /admin/models/{id}/rollback  401  401   403      403   403   403  403      ok    ok
GET /health/live                  ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /health/ready                 ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /health                       ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /openapi.json                 ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /                             ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /docs                         ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /ui/about.json                ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /ui/{file}                    ok   ok    ok       ok    ok    ok   ok       ok    ok
GET /metrics                      ok   ok    ok       ok    ok    ok   ok       ok    ok
";

/// The rows of a table: what is left of the first gap, and by column the cells.
fn table(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut lines = text.trim_matches('\n').lines();
    let columns: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    let row = |line: &str| {
        let (name, cells) = line.split_once("  ").unwrap();
        let cells: Vec<&str> = cells.split_whitespace().collect();
        assert_eq!(cells.len(), columns.len(), "{line}");
        (
            name.to_owned(),
            columns
                .iter()
                .zip(cells)
                .map(|(column, cell)| ((*column).to_owned(), cell.to_owned()))
                .collect(),
        )
    };
    lines.map(row).collect()
}

#[test]
fn routes_accept_exactly_the_keys_of_the_table() {
    let rows = table(BY_ROUTE);
    let known: BTreeSet<_> = ROUTES
        .iter()
        .chain(METRICS)
        .map(|route| format!("{} {}", route.method, route.path))
        .collect();
    assert_eq!(
        rows.iter()
            .map(|(name, _)| name.clone())
            .collect::<BTreeSet<_>>(),
        known,
        "every route has a row"
    );
    let served = Served::with(each_scope_alone);
    for (name, cells) in rows {
        let (method, path) = name.split_once(' ').unwrap();
        let path = path
            .replace("{id}", "fb_none")
            .replace("{file}", "style.css");
        let body = if method == "POST" {
            json!({})
        } else {
            Value::Null
        };
        for (key, expected) in cells {
            let reply = asked(&served, &key, method, &path, &body);
            let got = match reply.status {
                status @ (401 | 403) => status.to_string(),
                // Ten wrong keys from one address are answered so, and more are told to wait.
                429 if key == "wrong" => "401".to_owned(),
                status if status < 500 && status != 429 => "ok".to_owned(),
                status => status.to_string(),
            };
            assert_eq!(
                got,
                expected,
                "{name} with {key}: {} {}",
                reply.status,
                String::from_utf8_lossy(&reply.body)
            );
            if got == "403" {
                let error = reply.error(403);
                assert_eq!(error["code"], "insufficient_scope", "{error}");
                let scopes = ROUTES
                    .iter()
                    .find(|r| name == format!("{} {}", r.method, r.path))
                    .unwrap()
                    .needs
                    .scopes();
                let message = error["message"].as_str().unwrap();
                assert!(
                    scopes
                        .iter()
                        .all(|scope| message.contains(&format!("`{}`", scope.name()))),
                    "{message}"
                );
                assert!(
                    key == "root" || message.contains(&format!("`{key}`")),
                    "{message}"
                );
                assert!(!reply.text().contains("sk-"), "{message}");
            }
        }
    }
    for (method, path, key, status) in [
        ("GET", "/v1/nothing", "none", 401),
        ("GET", "/v1/nothing", "score", 404),
        ("PUT", "/v1/feedback", "none", 401),
        ("PUT", "/v1/feedback", "score", 405),
        ("PUT", "/admin/models", "score", 403),
        ("PUT", "/admin/models", "admin", 405),
        ("HEAD", "/v1/feedback", "score", 403),
        ("HEAD", "/v1/feedback", "write", 200),
        ("GET", "//v1//feedback/", "score", 403),
        ("OPTIONS", "/v1/feedback", "none", 204),
    ] {
        assert_eq!(
            asked(&served, key, method, path, &Value::Null).status,
            status,
            "{method} {path} {key}"
        );
    }
}

#[test]
fn key_route_returns_owner_and_scopes() {
    let served = Served::with(|config| {
        each_scope_alone(config);
        config.keys.push(key("all", "b", &KeyScope::ALL));
    });
    let told = |key: &str| asked(&served, key, "GET", "/v1/key", &Value::Null).json();
    assert_eq!(
        told("write"),
        json!({"object": "key", "name": "write", "owner": "a", "scopes": ["feedback:write"]})
    );
    let all = KeyScope::ALL.map(KeyScope::name);
    assert_eq!(
        told("all"),
        json!({"object": "key", "name": "all", "owner": "b", "scopes": all})
    );
    assert_eq!(told("root")["scopes"], json!(["admin"]));
    let anybody = get(Served::new().at, "/v1/key").json();
    assert_eq!(
        anybody,
        json!({"object": "key", "name": null, "owner": "", "scopes": all[..5]})
    );
}

/// Permissions of the routing table, of the description and of the document are one.
#[test]
fn scopes_agree_in_routes_openapi_and_document() {
    let document = include_str!("../../SECURITY.md");
    let described = get(Served::with(each_scope_alone).at, "/openapi.json").json();
    let open = get(Served::new().at, "/openapi.json").json();
    assert_eq!(
        described["components"]["securitySchemes"]["key"]["scheme"],
        "bearer"
    );
    for route in ROUTES.iter().chain(METRICS) {
        let name = format!("{} {}", route.method, route.path);
        let scopes: Vec<&str> = route
            .needs
            .scopes()
            .iter()
            .map(|scope| scope.name())
            .collect();
        let written: Vec<String> = scopes.iter().map(|scope| format!("`{scope}`")).collect();
        let written = match route.needs {
            Permission::Open => "none".to_owned(),
            Permission::AnyKey => "any key".to_owned(),
            Permission::Metrics => "none; beyond loopback `admin`".to_owned(),
            Permission::OneOf(_) | Permission::Admin => written.join(" or "),
        };
        let row = format!("| `{name}` | {written} |");
        assert!(
            document.lines().any(|line| line.starts_with(&row)),
            "SECURITY.md has no row {row}"
        );
        let operation =
            |document: &Value| document["paths"][route.path][route.method.to_lowercase()].clone();
        let (closed, keyless) = (operation(&described), operation(&open));
        let mut expected: Vec<Value> = scopes.iter().map(|scope| json!({"key": [scope]})).collect();
        match route.needs {
            Permission::AnyKey => expected.push(json!({"key": []})),
            Permission::Metrics => expected.insert(0, json!({})),
            _ => {}
        }
        assert_eq!(closed["security"], json!(expected), "{name}");
        if route.needs != Permission::Open {
            expected.retain(|alternative| *alternative != json!({}));
            expected.insert(0, json!({}));
        }
        assert_eq!(
            keyless["security"],
            json!(expected),
            "{name}: a server without keys needs none"
        );
        let statuses = closed["responses"].as_object().unwrap();
        assert_eq!(
            statuses.contains_key("401"),
            route.needs != Permission::Open,
            "{name}"
        );
        assert_eq!(statuses.contains_key("403"), !scopes.is_empty(), "{name}");
    }
    let rows = document.lines().filter(|line| {
        ["| `GET /", "| `POST /", "| `DELETE /"]
            .iter()
            .any(|start| line.starts_with(start))
    });
    assert_eq!(
        rows.count(),
        ROUTES.len() + METRICS.len(),
        "SECURITY.md names each route once"
    );
}

/// Beyond loopback, metrics are the operator's.
#[test]
fn public_metrics_need_a_key_or_a_separate_listener() {
    let everywhere = |config: &mut Config| {
        config.server.listen = "0.0.0.0:0".to_owned();
        each_scope_alone(config);
    };
    let served = Served::with(everywhere);
    for (key, status) in [
        ("none", 401),
        ("wrong", 401),
        ("complete", 403),
        ("read", 403),
        ("admin", 200),
        ("root", 200),
    ] {
        assert_eq!(
            asked(&served, key, "GET", "/metrics", &Value::Null).status,
            status,
            "{key}"
        );
    }
    for path in ["/health", "/health/live", "/health/ready", "/"] {
        assert_eq!(get(served.at, path).status, 200, "{path}");
    }
    let apart = Served::with(|config| {
        everywhere(config);
        config.metrics.listen = Auto::Value("127.0.0.1:0".to_owned());
    });
    assert_eq!(
        (
            get(apart.at, "/metrics").status,
            get(apart.metrics_at.unwrap(), "/metrics").status
        ),
        (404, 200)
    );
    let insecure = Served::with(|config| {
        (config.server.listen, config.server.insecure) = ("0.0.0.0:0".to_owned(), true)
    });
    assert_eq!(
        (
            get(insecure.at, "/metrics").status,
            get(insecure.at, "/v1/models").status
        ),
        (200, 200)
    );
}

#[test]
fn repeated_wrong_keys_are_429_and_known_keys_are_not() {
    let served = Served::with(each_scope_alone);
    let models = |key: &str| asked(&served, key, "GET", "/v1/models", &Value::Null);
    let first = models("wrong");
    assert_eq!(first.error(401)["code"], "invalid_api_key");
    // Ten at once and ten a minute; a slow machine needs more of them.
    let told = (0..500)
        .map(|number| models(&format!("wrong-{number}")))
        .find(|reply| reply.status != 401)
        .expect("guesses are slowed");
    assert_eq!(told.error(429)["code"], "rate_limit_exceeded");
    let wait: u64 = told.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert!(!told.text().contains("sk-"), "{}", told.text());
    for _ in 0..20 {
        assert_eq!((models("score").status, models("none").status), (200, 401));
    }
    assert_eq!(
        asked(&served, "score", "GET", "/v1/feedback", &Value::Null).status,
        403
    );
    let count = |reason: &str| {
        served.metric(&format!(
            "candor_auth_failures_total{{reason=\"{reason}\"}}"
        ))
    };
    assert!(count("unknown") >= 11.0, "{}", count("unknown"));
    assert_eq!(
        (count("missing"), count("malformed"), count("scope")),
        (20.0, 0.0, 1.0)
    );
}

/// `a1` and `a2` are of one owner, `b` is of another; `reader` is of a third and reads everybody's.
fn tenants(config: &mut Config) {
    const OWN: [KeyScope; 4] = [
        KeyScope::Complete,
        KeyScope::Score,
        KeyScope::FeedbackWrite,
        KeyScope::Annotate,
    ];
    let everybodys = [&OWN[..], &[KeyScope::FeedbackRead]].concat();
    config.keys = vec![
        key("a1", "a", &OWN),
        key("a2", "a", &OWN),
        key("b", "b", &OWN),
        key("reader", "c", &everybodys),
    ];
    (config.queue.unassisted_share, config.queue.overlap_share) = (0.0, 0.0);
}

/// What is done with whose, in this order, and what comes of it: a status, the owners whose objects
/// are seen (`n`: nobody's), or a number.
const BY_OBJECT: &str = "
                                 a1   a2   b    reader
see a's record                   200  200  404  200
see b's record                   404  404  200  200
see nobody's record              404  404  404  200
list records                     a    a    b    abn
list records of user u           a    a    b    abn
export records                   a    a    b    abn
count open items                 1    1    1    3
count open items for ann         1    1    1    3
lease an item                    a    -    b    n
release a's item as b            404  404  404  404
skip a's item as b               404  404  404  404
judge a's answer                 201  201  404  201
judge b's answer                 404  404  201  201
judge nobody's answer            404  404  404  201
judge an answer of none          404  404  404  404
";

/// The ids of what one owner has.
struct Objects {
    owner: char,
    completion: Value,
    record: Value,
}

impl Objects {
    /// An answer about the same photograph for everybody, and a record with a photograph of its
    /// own.
    fn make(served: &Served, owner: char, key: &str) -> Self {
        let completion = asked(
            served,
            key,
            "POST",
            "/v1/chat/completions",
            &and(ask(1, "Is there a dog?"), json!({"user": "u"})),
        );
        assert_eq!(completion.status, 200, "{}", completion.text());
        let image = data_url("image/png", &picture(2, ImageFormat::Png));
        let body = json!({"image": image, "prompt": "What is it?", "response": "A dog.",
            "label": "good", "user": "u"});
        let record = asked(served, key, "POST", "/v1/feedback", &body);
        assert_eq!(record.status, 201, "{}", record.text());
        Self {
            owner,
            completion: completion.json()["id"].clone(),
            record: record.json()["id"].clone(),
        }
    }
}

/// The same store without keys and with them.
fn tenanted() -> (Served, [Objects; 3], tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let place = |config: &mut Config| {
        config.feedback.store = format!("sqlite:{}/feedback.db", folder.path().display());
        config.feedback.images = folder.path().join("images").display().to_string();
        tenants(config);
    };
    let mut before = Served::with(|config| {
        place(config);
        config.keys.clear();
    });
    let nobodys = Objects::make(&before, 'n', "none");
    eventually("it is remembered", || {
        get(before.at, "/v1/queue").json()["open"] == 1
    });
    before.join();
    let served = Served::with(place);
    let objects = [
        Objects::make(&served, 'a', "a1"),
        Objects::make(&served, 'b', "b"),
        nobodys,
    ];
    let open = || asked(&served, "reader", "GET", "/v1/queue", &Value::Null).json()["open"].clone();
    eventually("all are remembered", || open() == 3);
    (served, objects, folder)
}

/// The owners of records of which some text speaks.
fn owners_in(text: &str, objects: &[Objects]) -> String {
    let seen = objects
        .iter()
        .filter(|of| text.contains(of.record.as_str().unwrap()));
    seen.map(|of| of.owner).collect()
}

#[test]
fn owner_sees_own_data_and_readers_see_all() {
    let (served, objects, _folder) = tenanted();
    let of = |text: &str| {
        objects.iter().find(|of| {
            text.contains(&format!(
                "{}'s",
                if of.owner == 'n' {
                    "nobody".to_owned()
                } else {
                    of.owner.to_string()
                }
            ))
        })
    };
    let ask =
        |key: &str, method: &str, path: &str, body: &Value| asked(&served, key, method, path, body);
    let mut leased = String::new();
    for (what, cells) in table(BY_OBJECT) {
        for (key, expected) in cells {
            // Annotators of two owners may have one name.
            let annotator = json!({"annotator": if key == "a2" { "bob" } else { "ann" }});
            let (verb, object) = (what.split(' ').next().unwrap(), of(&what));
            let reply = match (verb, object) {
                ("see", Some(of)) => ask(
                    &key,
                    "GET",
                    &format!("/v1/feedback/{}", of.record.as_str().unwrap()),
                    &Value::Null,
                ),
                ("list", _) if what.ends_with("user u") => {
                    ask(&key, "GET", "/v1/feedback?user=u", &Value::Null)
                }
                ("list", _) => ask(&key, "GET", "/v1/feedback", &Value::Null),
                ("export", _) => ask(&key, "GET", "/v1/feedback/export", &Value::Null),
                ("count", _) if what.ends_with("ann") => {
                    ask(&key, "GET", "/v1/queue?annotator=ann", &Value::Null)
                }
                ("count", _) => ask(&key, "GET", "/v1/queue", &Value::Null),
                ("lease", _) => ask(&key, "POST", "/v1/queue/next", &annotator),
                ("release" | "skip", _) => {
                    // With the key of the other owner, and with a name that has no lease.
                    let (by, name) = if key.starts_with('a') {
                        ("b", "ann")
                    } else {
                        (key.as_str(), "eve")
                    };
                    ask(
                        by,
                        "POST",
                        &format!("/v1/queue/{leased}/{verb}"),
                        &json!({"annotator": name}),
                    )
                }
                ("judge", of) => {
                    let completion = of.map_or(json!("chatcmpl-none"), |of| of.completion.clone());
                    ask(
                        &key,
                        "POST",
                        "/v1/feedback",
                        &json!({"completion_id": completion, "label": "good"}),
                    )
                }
                (other, _) => panic!("{other}"),
            };
            let got = match (verb, reply.status) {
                ("lease", 204) => "-".to_owned(),
                ("lease", 200) => {
                    let item = reply.json();
                    if key == "a1" {
                        leased = item["id"].as_str().unwrap().to_owned();
                    }
                    assert!(
                        item["image"]
                            .as_str()
                            .unwrap()
                            .starts_with("data:image/png;base64,"),
                        "{item}"
                    );
                    objects
                        .iter()
                        .find(|of| of.completion == item["completion_id"])
                        .unwrap()
                        .owner
                        .to_string()
                }
                ("list" | "export", 200) => owners_in(reply.text(), &objects),
                ("count", 200) => reply.json()["open"].to_string(),
                (_, status) => status.to_string(),
            };
            assert_eq!(
                got,
                expected,
                "{what} with {key}: {}",
                String::from_utf8_lossy(&reply.body)
            );
            if got == "404" {
                // As though there were none.
                let none = if verb == "judge" {
                    "completion_not_found"
                } else if verb == "see" {
                    "feedback_not_found"
                } else {
                    "lease_not_found"
                };
                assert_eq!(reply.error(404)["code"], none, "{what} with {key}");
            }
        }
    }
}

#[test]
fn deletion_by_one_owner_keeps_the_others_data() {
    let (served, objects, folder) = tenanted();
    let [a, b, nobodys] = &objects;
    let remove = |key: &str, of: &Objects| {
        asked(
            &served,
            key,
            "DELETE",
            &format!("/v1/feedback/{}", of.record.as_str().unwrap()),
            &Value::Null,
        )
    };
    for (key, of) in [("b", a), ("a1", b), ("a1", nobodys), ("b", nobodys)] {
        assert_eq!(
            remove(key, of).error(404)["code"],
            "feedback_not_found",
            "{key} {}",
            of.owner
        );
    }
    let listed = |key: &str| {
        owners_in(
            asked(&served, key, "GET", "/v1/feedback", &Value::Null).text(),
            &objects,
        )
    };
    assert_eq!(listed("reader"), "abn", "nothing is gone");
    // The user of the same name is another with every owner.
    let removed = asked(&served, "a2", "DELETE", "/v1/feedback?user=u", &Value::Null).json();
    assert_eq!(
        (&removed["feedback"], &removed["receipts"]),
        (&json!(1), &json!(1)),
        "{removed}"
    );
    assert_eq!(listed("reader"), "bn");
    let judge = |key: &str, of: &Objects| {
        asked(
            &served,
            key,
            "POST",
            "/v1/feedback",
            &json!({"completion_id": of.completion, "label": "good"}),
        )
        .status
    };
    assert_eq!(
        (judge("a1", a), judge("b", b), judge("reader", nobodys)),
        (404, 201, 201)
    );
    // Both photographs were of three owners: they are there for the other two.
    let files = |folder: std::fs::DirEntry| std::fs::read_dir(folder.path()).unwrap().count();
    let kept = || {
        std::fs::read_dir(folder.path().join("images"))
            .unwrap()
            .map(|folder| files(folder.unwrap()))
            .sum::<usize>()
    };
    assert_eq!(kept(), 2);
    assert_eq!(remove("b", b).status, 200);
    assert_eq!(
        remove("reader", nobodys).status,
        200,
        "who reads everybody's removes it too"
    );
    assert_eq!(
        (listed("reader").as_str(), kept()),
        ("", 1),
        "nobody has the records' photograph any more"
    );
}

#[test]
fn idempotency_keys_are_separate_by_owner() {
    let served = Served::with(tenants);
    let image = data_url("image/png", &picture(2, ImageFormat::Png));
    let body =
        json!({"image": image, "prompt": "What is it?", "response": "A dog.", "label": "good"})
            .to_string();
    let post = |key: &str| {
        let bearer = format!("Bearer {}", secret(key));
        let headers = [
            JSON,
            ("authorization", bearer.as_str()),
            ("idempotency-key", "click-1"),
        ];
        let reply = exchange(
            served.at,
            &request("POST", "/v1/feedback", &headers, body.as_bytes()),
        );
        assert_eq!(reply.status, 201, "{}", reply.text());
        (
            reply.json()["id"].clone(),
            reply.header("idempotent-replayed").is_some(),
        )
    };
    let (first, fresh) = post("a1");
    assert!(!fresh);
    assert_eq!(
        post("a2"),
        (first.clone(), true),
        "the other key of the owner"
    );
    let (others, replayed) = post("b");
    assert!(!replayed && others != first);
}

#[test]
fn audit_log_has_what_was_administered_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("audit.jsonl");
    let served = Served::with(|config| {
        each_scope_alone(config);
        config.log.audit = file.to_str().unwrap().to_owned();
    });
    let none = Value::Null;
    assert_eq!(
        asked(&served, "admin", "GET", "/admin/models", &none).status,
        200
    );
    let promoted = asked(
        &served,
        "admin",
        "POST",
        "/admin/models/secret-words/promote",
        &none,
    );
    assert_eq!(promoted.status, 404);
    let deleted = asked(&served, "read", "DELETE", "/v1/feedback?user=maria", &none);
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    let id = deleted.header("x-request-id").unwrap();
    assert_eq!(
        asked(&served, "read", "POST", "/admin/models/x/promote", &none).status,
        403
    );
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told = |line: &Value| {
        ["action", "key", "target", "outcome"]
            .map(|name| line[name].as_str().unwrap_or("").to_owned())
    };
    assert_eq!(
        lines.iter().map(told).collect::<Vec<_>>(),
        [
            ["POST /admin/models/{id}/promote", "admin", "", "404"],
            ["DELETE /v1/feedback", "read", "/v1/feedback", "200"],
        ]
    );
    assert_eq!(lines[1]["request_id"], id);
    assert!(lines[1]["time"].as_str().unwrap().ends_with('Z'));
    assert!(
        !text.contains("maria") && !text.contains("secret-words"),
        "{text}"
    );
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn audit_log_that_cannot_be_opened_stops_the_start() {
    let empty = tempfile::tempdir().unwrap();
    let output = candor(&["serve", "--listen", "127.0.0.1:0"])
        .env("CANDOR_LOG__AUDIT", "/dev/null/audit")
        .current_dir(empty.path())
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(
        error.contains("log.audit") && error.contains("/dev/null/audit"),
        "{error}"
    );
}
