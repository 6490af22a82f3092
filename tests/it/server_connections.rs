//! Clients that take what others need: connections, memory and places, and streams that nobody
//! reads.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use candor::{
    config::{Auto, Config},
    serve::Local,
};
use futures_util::StreamExt;
use image::ImageFormat;
use serde_json::{Value, json};
use tokio::{net::TcpSocket, runtime::Runtime};

use crate::{
    cli::Process,
    http::{JSON, Reply, chat_raw, connect, get, read, read_until, request},
    served::{Served, Valve, about, and, ask, data_url, eventually, picture},
};

const LIVE: &[u8] = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// The head of a completion request whose body has this many bytes.
fn head(length: usize) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: \
         close\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n"
    )
}

/// A connection over which a completion request of `bytes` has begun.
fn begin(served: &Served, length: usize, bytes: &[u8]) -> TcpStream {
    let mut client = connect(served.at);
    client.write_all(head(length).as_bytes()).unwrap();
    client.write_all(bytes).unwrap();
    client
}

/// A request about a picture, its file filled up to this many bytes.
fn large(size: usize) -> Value {
    let mut file = picture(3, ImageFormat::Jpeg);
    file.resize(size, 0);
    about(&data_url("image/jpeg", &file), "")
}

fn closed(served: &Served, reason: &str) -> f64 {
    served.metric(&format!(
        "candor_connections_closed_total{{reason=\"{reason}\"}}"
    ))
}

/// A server in this process, without sockets and their buffers, behind a valve.
fn local(change: impl FnOnce(&mut Config)) -> (Local, std::sync::Arc<Valve>) {
    let mut config = Config::default();
    change(&mut config);
    let (bundle, valve) = Valve::before(&config);
    (Local::start(config, bundle).unwrap(), valve)
}

#[test]
fn unread_stream_releases_its_slot() {
    let (local, valve) = local(|c| (c.server.max_concurrent, c.server.request_timeout_s) = (1, 3));
    let runtime = Runtime::new().unwrap();
    let streamed = and(ask(1, ""), json!({"stream": true}));
    let chat = || runtime.block_on(local.chat(&ask(2, "")));
    // The engine is done with it.
    let whole = runtime.block_on(local.stream(&streamed)).unwrap();
    eventually("the place is free when the answer is written", || {
        chat().is_ok()
    });
    // Its time is up.
    valve.allow(1);
    let late = runtime.block_on(local.stream(&streamed)).unwrap();
    let too_slow = "was not complete within 3 s";
    assert!(!chat().unwrap_err().contains(too_slow), "there is no place");
    eventually("the place is free at the deadline", || {
        chat().unwrap_err().contains(too_slow)
    });
    valve.open();
    eventually("others are answered", || chat().is_ok());
    // Nothing of what was written is lost.
    let chunks: Vec<Value> = runtime.block_on(whole.map(Result::unwrap).collect());
    assert!(
        chunks.last().unwrap()["choices"][0]["finish_reason"].is_string(),
        "{chunks:?}"
    );
    let last: Vec<Result<Value, String>> = runtime.block_on(late.collect());
    assert!(
        last.last()
            .unwrap()
            .as_ref()
            .unwrap_err()
            .contains(too_slow),
        "{last:?}"
    );
    runtime.block_on(local.stop());
}

#[test]
fn client_that_reads_nothing_is_disconnected() {
    let served = Served::with(|c| c.server.write_timeout_s = 1);
    let mut client = connect(served.at);
    // More than the buffers of two sockets hold.
    let all = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(2000);
    let mut writer = client.try_clone().unwrap();
    let writes = thread::spawn(move || drop(writer.write_all(&all)));
    eventually("it is given up", || closed(&served, "slow") == 1.0);
    writes.join().unwrap();
    let mut said = Vec::new();
    let _ = client.read_to_end(&mut said);
    eventually("nothing of it is left", || {
        served.metric("candor_http_requests_in_flight{method=\"GET\",route=\"/openapi.json\"}")
            == 0.0
    });
}

#[test]
fn idle_connection_is_evicted_for_a_new_one() {
    let served = Served::with(|c| {
        (
            c.server.max_connections,
            c.server.read_timeout_s,
            c.engine.stall_after_s,
        ) = (8, 300, 300)
    });
    served.valve.allow(2);
    let body = and(ask(1, ""), json!({"stream": true})).to_string();
    let mut answered = begin(&served, body.len(), body.as_bytes());
    read_until(&mut answered, "\"role\":\"assistant\"");
    let mut held = Vec::new();
    for i in 0..40 {
        let mut client = connect(served.at);
        match i % 3 {
            0 => {}
            1 => client
                .write_all(b"POST /v1/chat/completions HTTP/1.1\r\nhost: loc")
                .unwrap(),
            _ => {
                client.write_all(LIVE).unwrap();
                read_until(&mut client, "{\"status\":\"ok\"}");
            }
        }
        held.push(client);
        if i % 8 == 7 {
            assert_eq!(get(served.at, "/health").status, 200);
        }
    }
    assert!(closed(&served, "evicted") >= 30.0);
    assert!(served.metric("candor_connections_open") <= 8.0);
    // The newest is still there.
    let newest = held.last_mut().unwrap();
    newest.write_all(LIVE).unwrap();
    read_until(newest, "{\"status\":\"ok\"}");
    served.valve.open();
    let mut rest = String::new();
    answered.read_to_string(&mut rest).unwrap();
    assert!(
        rest.contains("data: [DONE]"),
        "one that is answered is never closed for another: {rest}"
    );
}

#[test]
fn uploading_connection_is_evicted_after_idle_ones() {
    let served = Served::with(|c| {
        (
            c.server.max_connections,
            c.server.max_connections_per_address,
            c.server.read_timeout_s,
        ) = (6, Auto::Value(6), 300);
    });
    let slow: Vec<_> = (0..12).map(|_| begin(&served, 1000, b"{")).collect();
    assert_eq!(get(served.at, "/health").status, 200);
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    drop(slow);
}

/// A connection from an address of this machine.
fn connect_from(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let stream = Runtime::new().unwrap().block_on(async {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((IpAddr::V4(from), 0).into()).unwrap();
        socket.connect(to).await.unwrap().into_std().unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .unwrap();
    stream
}

#[test]
fn connections_of_one_address_are_limited() {
    let served = Served::with(|c| c.server.max_connections_per_address = Auto::Value(2));
    served.valve.allow(0);
    let answered: Vec<_> = (1..=2)
        .map(|seed| {
            let body = ask(seed, "").to_string();
            begin(&served, body.len(), body.as_bytes())
        })
        .collect();
    let other = || {
        let mut client = connect_from(Ipv4Addr::new(127, 0, 0, 2), served.at);
        client
            .write_all(&request("GET", "/metrics", &[], b""))
            .unwrap();
        read(&mut client)
    };
    let in_engine = |reply: &Reply| -> f64 {
        let of = |name: &str| {
            reply
                .text()
                .lines()
                .find_map(|l| l.strip_prefix(name)?.trim().parse::<f64>().ok())
                .unwrap()
        };
        of("candor_requests_running ") + of("candor_requests_waiting ")
    };
    eventually("both are answered", || {
        // The engine looks for new requests between steps.
        served.valve.allow(1);
        in_engine(&other()) == 2.0
    });
    let mut third = connect(served.at);
    let mut said = Vec::new();
    third.read_to_end(&mut said).unwrap();
    let refused = Reply::parse(&said);
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1"))
    );
    assert_eq!(refused.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(
        refused
            .header("content-length")
            .unwrap()
            .parse::<usize>()
            .unwrap(),
        refused.body.len()
    );
    assert!(
        other()
            .text()
            .contains("candor_connections_closed_total{reason=\"address\"} 1")
    );
    served.valve.open();
    for mut client in answered {
        assert_eq!(read(&mut client).status, 200);
    }
}

#[test]
fn uploading_body_holds_no_slot() {
    let served = Served::with(|c| c.server.max_concurrent = 2);
    let body = ask(1, "").to_string().into_bytes();
    let mut slow: Vec<_> = (0..6)
        .map(|_| begin(&served, body.len(), &body[..9]))
        .collect();
    assert_eq!(served.chat(&ask(2, "")).status, 200);
    slow[0].write_all(&body[9..]).unwrap();
    assert_eq!(read(&mut slow[0]).status, 200);
}

#[test]
fn slow_body_is_aborted() {
    let served = Served::with(|c| (c.server.read_timeout_s, c.server.min_body_rate) = (300, 1000));
    let mut still = begin(&served, 100_000, b"{");
    let mut trickling = begin(&served, 100_000, b"{");
    let mut writer = trickling.try_clone().unwrap();
    thread::spawn(move || {
        while writer.write_all(b" ").is_ok() {
            thread::sleep(Duration::from_millis(200));
        }
    });
    for client in [&mut still, &mut trickling] {
        let mut said = vec![0; 12];
        client.read_exact(&mut said).unwrap();
        assert_eq!(said, b"HTTP/1.1 408");
    }
}

#[test]
fn large_body_waits_for_memory_and_small_does_not() {
    let served = Served::with(|c| {
        c.images.max_bytes = 300_000;
        c.server.max_body_bytes = 1 << 20;
        // Room for one of the largest.
        c.server.max_body_memory_bytes = 1;
        c.server.read_timeout_s = 20;
    });
    let body = large(200_000).to_string().into_bytes();
    // Announcing a body takes nothing from others.
    let announced = begin(&served, body.len(), &body[..100]);
    let mut first = begin(&served, body.len(), &body[..150_000]);
    eventually("the first has the memory", || {
        served.metric("candor_body_memory_bytes") > 0.0
    });
    let mut second = begin(&served, body.len(), &body);
    assert_eq!(served.chat(&ask(1, "")).status, 200);
    first.write_all(&body[150_000..]).unwrap();
    assert_eq!(read(&mut first).status, 200);
    assert_eq!(read(&mut second).status, 200);
    drop(announced);
    eventually("all is given back", || {
        served.metric("candor_body_memory_bytes") == 0.0
    });
}

#[test]
fn body_without_memory_in_time_is_429() {
    let served = Served::with(|c| {
        c.images.max_bytes = 300_000;
        c.server.max_body_bytes = 1 << 20;
        c.server.max_body_memory_bytes = 1;
        c.server.read_timeout_s = 1;
    });
    let body = large(200_000).to_string().into_bytes();
    served.valve.allow(1);
    // Its image is held until it is answered.
    let mut first = begin(&served, body.len(), &body);
    eventually("the first is answered", || {
        served.metric("candor_requests_running") == 1.0
    });
    let reply = chat_raw(served.at, &body);
    assert_eq!(reply.error(429)["code"], "rate_limit_exceeded");
    assert!(reply.header("retry-after").is_some());
    served.valve.open();
    assert_eq!(read(&mut first).status, 200);
    assert_eq!(chat_raw(served.at, &body).status, 200);
}

#[test]
fn half_closed_client_is_answered() {
    let served = Served::new();
    for stream in [false, true] {
        let body = and(ask(1, ""), json!({"stream": stream})).to_string();
        served.valve.allow(1);
        let mut client = begin(&served, body.len(), body.as_bytes());
        client.shutdown(Shutdown::Write).unwrap();
        eventually("it is being written", || {
            served.metric("candor_requests_running") == 1.0
        });
        thread::sleep(Duration::from_millis(300));
        served.valve.open();
        let reply = read(&mut client);
        assert_eq!(reply.status, 200);
        assert!(
            reply.text().contains(if stream {
                "data: [DONE]"
            } else {
                "\"chat.completion\""
            }),
            "{}",
            reply.text()
        );
    }
    let mut client = connect(served.at);
    client.write_all(LIVE).unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read(&mut client).json(), json!({"status": "ok"}));
}

/// One that has read all there is and then closes sends no reset by itself.
#[test]
fn disconnected_client_cancels_its_answer() {
    let served = Served::new();
    for stream in [false, true] {
        served.valve.allow(1);
        let body = and(ask(1, ""), json!({"stream": stream})).to_string();
        let mut client = begin(&served, body.len(), body.as_bytes());
        eventually("it is being written", || {
            served.metric("candor_requests_running") == 1.0
        });
        client
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        while let Ok(1..) = client.read(&mut [0; 4096]) {}
        drop(client);
        let in_flight = || {
            served.metric(
                "candor_http_requests_in_flight{method=\"POST\",route=\"/v1/chat/completions\"}",
            )
        };
        eventually("the request has ended", || in_flight() == 0.0);
        served.valve.open();
        eventually("nothing runs", || {
            served.metric("candor_requests_running") == 0.0
        });
    }
    eventually("both are counted", || {
        served.metric("candor_request_success_total{finished_reason=\"abort\"}") == 2.0
    });
}

#[test]
fn operations_listener_serves_health_and_metrics_alone() {
    let served = Served::with(|c| {
        c.server.operations_listen = Auto::Value("127.0.0.1:0".to_owned());
        (
            c.server.max_connections,
            c.server.max_connections_per_address,
            c.engine.stall_after_s,
        ) = (4, Auto::Value(4), 300);
    });
    let operations = served.metrics_at.unwrap();
    served.valve.allow(1);
    let body = ask(1, "").to_string();
    let _answered: Vec<_> = (0..4)
        .map(|_| begin(&served, body.len(), body.as_bytes()))
        .collect();
    for path in ["/health", "/health/live", "/health/ready", "/metrics"] {
        assert_eq!(get(operations, path).status, 200, "{path}");
    }
    assert_eq!(
        get(operations, "/v1/models").error(404)["code"],
        "unknown_url"
    );
    served.valve.open();
}

/// Resident memory of a process in MiB, now or at its highest (`VmRSS`, `VmHWM`).
fn memory(process: &Process, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", process.child.id())).unwrap();
    let kib = status.lines().find_map(|l| {
        l.strip_prefix(line)?
            .strip_prefix(':')?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    kib.unwrap() / 1024
}

#[test]
fn body_memory_is_bounded_and_released() {
    if !cfg!(target_os = "linux") {
        return;
    }
    let process = Process::serve(&[]);
    let before = memory(&process, "VmRSS");
    let raw = request(
        "POST",
        "/v1/chat/completions",
        &[JSON],
        and(large(15_000_000), json!({"max_tokens": 2}))
            .to_string()
            .as_bytes(),
    );
    thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                // Some may be told to come again.
                let status = crate::http::try_exchange(process.at, &raw).map(|reply| reply.status);
                assert!(matches!(status, Some(200 | 408 | 429) | None), "{status:?}");
            });
        }
    });
    assert_eq!(get(process.at, "/health").status, 200);
    let highest = memory(&process, "VmHWM");
    assert!(highest < 600, "{highest} MiB");
    eventually("most of it is given back", || {
        memory(&process, "VmRSS") < before + 150
    });
}
