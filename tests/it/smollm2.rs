//! A real language model, SmolLM2-135M-Instruct in four bits, behind the API: its greedy text is
//! that of transformers on the same weights.

use std::{env, fs, path::PathBuf, sync::Arc};

use candle_core::Device;
use candor::{
    bundle::{Bundle, OpenOptions},
    config::Config,
    engine::{Engine, EngineConfig, Event, GuardParams, Request, Sampling, fair::Share},
    guard::Mode,
    serve::Local,
    vlm::{processor::message::Message, prompt::Prompt},
};
use serde_json::{Value, json};

use crate::support::needed;

/// Path of the GGUF file, which `make test` downloads.
pub(crate) fn gguf() -> Option<PathBuf> {
    let named = env::var_os("CANDOR_SMOLLM2").map(PathBuf::from);
    let cached = || {
        let home = PathBuf::from(env::var_os("HOME")?);
        Some(home.join(".cache/candor/models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    };
    let found = named.or_else(cached).filter(|path| path.is_file());
    needed("SmolLM2 (CANDOR_SMOLLM2)", found)
}

fn open(path: &std::path::Path) -> Bundle {
    let options = OpenOptions::default();
    Bundle::open(path.to_str().unwrap(), &options, &Device::Cpu).unwrap()
}

/// Recorded answers of transformers on the dequantized weights.
fn recorded() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/models/smollm2.json"
    );
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn messages(case: &Value) -> Vec<Message> {
    let messages = case["messages"].as_array().unwrap().iter();
    messages
        .map(|message| {
            let role = message["role"].as_str().unwrap();
            Message::text(role, message["content"].as_str().unwrap())
        })
        .collect()
}

/// The engine stops at the first end token; the recording goes on behind it.
fn until_end(bundle: &Bundle, greedy: &[u32]) -> Vec<u32> {
    let text = greedy.iter().copied();
    text.take_while(|&id| !bundle.tokenizer().is_end(id))
        .collect()
}

#[tokio::test]
async fn greedy_answers_are_those_of_transformers() {
    let Some(path) = gguf() else { return };
    let bundle = open(&path);
    let config = EngineConfig {
        max_batch: 4,
        context_len: 512,
        ..EngineConfig::default()
    };
    let vlm = Arc::clone(&bundle.vlm);
    let handle = Engine::start(vlm, None, Arc::clone(bundle.tokenizer()), config).unwrap();
    let recorded = recorded();
    let cases = recorded["prompts"].as_array().unwrap();
    assert_eq!(cases.len(), 20);
    // All at once, so that they share steps.
    let mut streams = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        let prompt = match case["kind"].as_str().unwrap() {
            "chat" => bundle.processor.prompt(&messages(case), &[]).unwrap(),
            _ => Prompt {
                tokens: bundle
                    .tokenizer()
                    .encode_text(case["text"].as_str().unwrap())
                    .unwrap(),
                images: Vec::new(),
            },
        };
        assert_eq!(prompt.tokens, ids(&case["ids"]), "prompt of case {i}");
        let request = Request {
            id: format!("case {i}").into(),
            share: Share::default(),
            rank: i,
            images: Vec::new(),
            finisher: None,
            prompt: Arc::new(prompt),
            reader: None,
            max_tokens: 64,
            stop: Vec::new(),
            sampling: Sampling::default(),
            top_logprobs: Some(0),
            guard: GuardParams::new(Mode::Off, 0.5),
            unanswerable: None,
            gate: None,
            observer: None,
        };
        streams.push(handle.submit(request).unwrap());
    }
    for (i, (case, mut stream)) in cases.iter().zip(streams).enumerate() {
        let (mut written, mut text) = (Vec::new(), String::new());
        while let Some(event) = stream.next().await {
            match event {
                Event::Delta {
                    tokens, text: more, ..
                } => {
                    written.extend(tokens);
                    text += &more;
                }
                Event::Finished { .. } => {}
                Event::Failed(error) => panic!("case {i}: {error}"),
            }
        }
        let greedy = &case["greedy"];
        let expected = until_end(&bundle, &ids(&greedy["ids"]));
        let got: Vec<u32> = written.iter().map(|token| token.token.id).collect();
        assert_eq!(got, expected, "case {i}");
        assert_eq!(text, greedy["text"].as_str().unwrap(), "case {i}");
        let logprobs = greedy["logprob"].as_array().unwrap();
        for (token, expected) in written.iter().zip(logprobs) {
            let expected = expected.as_f64().unwrap() as f32;
            // Activations are rounded to 16 bits.
            assert!((token.token.logprob - expected).abs() < 4e-3, "case {i}");
        }
    }
}

#[test]
fn the_api_serves_text_alone() {
    let Some(path) = gguf() else { return };
    let mut config = Config::default();
    config.guard.mode = Mode::Off;
    config.engine.context_len = serde_json::from_value(json!(512)).unwrap();
    let local = Local::start(config, open(&path)).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = "SmolLM2-135M-Instruct.Q4_1";
    let question = json!([
        { "role": "system", "content": "You answer in one word." },
        { "role": "user", "content": "What is the capital of France?" },
    ]);
    let ask = |fields: Value| {
        let mut request = json!({ "model": name, "messages": question, "temperature": 0,
            "max_tokens": 12 });
        for (key, value) in fields.as_object().unwrap() {
            request[key] = value.clone();
        }
        runtime.block_on(local.chat(&request))
    };
    let answer = ask(json!({ "logprobs": true, "top_logprobs": 2 })).unwrap();
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(
        answer["warnings"],
        Value::Null,
        "the system message is read"
    );
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let spelled: String = tokens
        .iter()
        .map(|t| t["token"].as_str().unwrap())
        .collect();
    assert_eq!(spelled, text);
    assert_eq!(tokens[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert_eq!(answer["choices"][0]["guard"]["verdict"], "unscored");
    // A picture and a mode that scores are refused by name.
    let picture = "data:image/png;base64,iVBORw0KGgo=";
    let error = ask(json!({ "messages": [{ "role": "user", "content": [
        { "type": "image_url", "image_url": { "url": picture } },
        { "type": "text", "text": "What is this?" }] }] }))
    .unwrap_err();
    assert!(error.contains("text alone"), "{error}");
    let error = ask(json!({ "guard": { "mode": "flag" } })).unwrap_err();
    assert!(error.contains("guard.mode"), "{error}");
}
