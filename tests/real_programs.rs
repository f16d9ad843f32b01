//! Real programs, unmodified: each is asked before the dump and after the restore, and knows nothing of either.

mod support;

use std::fs;
use std::path::Path;

use support::service::{Service, answer, ask_tcp, ask_unix, free_port, http, provided, script};

/// What a server answers to a request of HTTP, which must be well.
#[track_caller]
fn get(port: u16, path: &str) -> String {
    let text = ask_tcp(port, &http("GET", path, "")).expect("it listens");
    let (status, body) = answer(&text);
    assert_eq!(status, 200, "{path}: {text}");
    body.to_owned()
}

/// What CRIU's own restore changes of anonymous shared memory.
const MEMFD: (&[&str], &str) =
    (&["/dev/zero (deleted)", "became", "/memfd:/dev/zero (deleted)"], "CRIU maps a memfd instead");

/// What it changes of unix sockets.
const NO_NAME: (&[&str], &str) = (&[".address: ", "became null"], "CRIU gives accepted connections no name");

fn words(text: String) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

fn text_of(path: &Path) -> String {
    path.to_str().expect("paths are UTF-8").to_owned()
}

/// What redis answers to a line of commands, of which the last is QUIT.
fn redis(service: &Service, commands: &[&str]) -> Option<String> {
    let request = commands.iter().map(|line| format!("{line}\r\n")).collect::<String>() + "QUIT\r\n";
    let answer = ask_unix(&service.file("redis.sock"), request.as_bytes())?;
    Some(answer.strip_suffix("+OK\r\n").unwrap_or(&answer).to_owned())
}

#[test]
fn redis_keeps_its_keys_and_saves_them() {
    let port = free_port();
    let started = Service::start("redis", &[], |directory| {
        let directory = directory.display();
        let mut arguments = words(format!(
            "--port {port} --bind 127.0.0.1 --unixsocket {directory}/redis.sock --dir {directory} --io-threads 3"
        ));
        arguments.extend(["--save".to_owned(), String::new()]);
        arguments
    });
    let Some(mut service) = started else { return };
    let ask = |service: &Service, commands: &[&str]| redis(service, commands).expect("redis answers");
    let socket = service.file("redis.sock");
    service.eventually("PING", || ask_unix(&socket, b"PING\r\nQUIT\r\n"));
    assert_eq!(ask(&service, &["SET kept forever", "SET fades soon EX 5000"]), "+OK\r\n+OK\r\n");
    let fill = "EVAL \"for i = 1, 20000 do redis.call('RPUSH', 'list', 'element ' .. i) end\" 0";
    ask(&service, &[fill]);

    service.dump_and_restore(|service, round| {
        assert_eq!(ask(service, &["GET kept", "GET fades"]), "$7\r\nforever\r\n$4\r\nsoon\r\n");
        let ttl = ask(service, &["TTL fades"]);
        let ttl_s: u32 = ttl.trim_start_matches(':').trim().parse().expect("a number");
        assert!((1000..=5000).contains(&ttl_s), "{ttl}");
        assert_eq!(ask(service, &["LLEN list", "LINDEX list 12344"]), ":20000\r\n$13\r\nelement 12345\r\n");
        assert_eq!(ask(service, &["INCR restores"]), format!(":{round}\r\n"));
        // A child that has all of its parent's memory.
        ask(service, &["BGSAVE"]);
        service.eventually("BGSAVE", || {
            let info = ask_unix(&socket, b"INFO persistence\r\nQUIT\r\n")?;
            assert!(info.contains("rdb_last_bgsave_status:ok"), "{info}");
            info.contains("rdb_bgsave_in_progress:0").then_some(())
        });
        let saved = fs::read(service.file("dump.rdb")).expect("a file is saved");
        assert!(saved.starts_with(b"REDIS") && saved.windows(7).any(|bytes| bytes == b"forever"));
        fs::remove_file(service.file("dump.rdb")).expect("it can be removed");
    });
    service.signal("TERM");
    service.end();
}

#[test]
fn a_pool_of_python_processes() {
    let started = Service::start("python", &[], |directory| {
        let interpreter = provided("python").expect("it was just found");
        vec![text_of(&script("pool.py")), text_of(directory), text_of(&interpreter)]
    });
    let Some(service) = started else { return };
    let mut service = service.criu_changes(NO_NAME);
    let socket = service.file("socket");
    let ask = |command: &str| {
        let answer = ask_unix(&socket, format!("{command}\n").as_bytes()).expect("the pool listens");
        answer.trim_end().to_owned()
    };
    service.eventually("threads", || ask_unix(&socket, b"threads\n"));
    let threads = ask("threads");
    assert_eq!(threads, "['blocked 0', 'blocked 1', 'blocked 2', 'sleeper', 'ticker']");
    assert_eq!(ask("map 100"), "328350");
    assert_eq!(ask("remember before dump"), "dump");
    assert_eq!(ask("put in the queue"), "done");
    assert_eq!(ask("hold"), "False");
    service.eventually("ticks", || (ask("ticks") == "True").then_some(()));

    service.dump_and_restore(|_, round| {
        assert_eq!(ask("waits"), "True");
        assert_eq!(ask("release"), "got it");
        assert_eq!(ask("hold"), "False");
        assert_eq!(ask("get"), "['in', 'the', 'queue']");
        assert_eq!(ask("put in the queue"), "done");
        let (numbers, each) = (4950 * round, |extra: u32| 14 * round + extra * round);
        let histogram: Vec<u32> = (0..7).map(|index| each(u32::from(index < 2))).collect();
        assert_eq!(ask("numbers"), format!("({numbers}, {histogram:?})"));
        assert_eq!(ask("map 100"), "328350");
        let known = ask("recall");
        assert!(known.starts_with("{'before': 'dump'"), "{known}");
        assert_eq!(ask(&format!("remember round {round}")), round.to_string());
        assert_eq!(ask("ticks"), "True");
        assert_eq!(ask("threads"), threads);
    });
    assert_eq!(ask("release"), "got it");
    assert_eq!(ask("quit"), "bye");
    service.end();
}

#[test]
fn nginx_with_workers_of_another_user() {
    let (port, next) = (free_port(), free_port());
    let config = |directory: &Path, generation: u32| {
        let text = fs::read_to_string(script("nginx.conf")).expect("the configuration");
        text.replace("DIR", &text_of(directory))
            .replace("PORT", &port.to_string())
            .replace("NEXT", &next.to_string())
            .replace("GENERATION", &generation.to_string())
    };
    let started = Service::start("nginx", &[], |directory| {
        fs::write(directory.join("nginx.conf"), config(directory, 0)).expect("the configuration");
        fs::write(directory.join("page"), "a page\n".repeat(1000)).expect("a page");
        let directory = directory.display();
        words(format!("-e {directory}/error.log -p {directory} -c {directory}/nginx.conf"))
    });
    let Some(service) = started else { return };
    let mut service = service.criu_changes(MEMFD);
    let socket = service.file("nginx.sock");
    // Counts those that the limit lets through, of a dozen.
    let burst = || {
        let ask = |_: &i32| answer(&ask_tcp(port, &http("GET", "/limited", "")).expect("it listens")).0;
        let statuses: Vec<u16> = (0..12).collect::<Vec<_>>().iter().map(ask).collect();
        assert!(statuses.iter().all(|status| [200, 503].contains(status)), "{statuses:?}");
        statuses.iter().filter(|status| **status == 200).count()
    };
    let accepted = || {
        let text = get(port, "/status");
        let numbers = text.lines().nth(2).expect("a line of numbers");
        numbers.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).expect("a number")
    };
    service.eventually("nginx", || ask_tcp(port, &http("GET", "/worker", "")));
    assert_eq!(burst(), 11);
    let mut served = accepted();

    service.dump_and_restore(|service, round| {
        // In memory that all workers share. More are let through as time goes by, one in a minute.
        let let_through = burst();
        assert!(let_through <= 5, "the zone has forgotten: {let_through}");
        let now = accepted();
        assert_eq!(now, served + 13);
        assert_eq!(get(port, "/through"), "a page\n".repeat(1000));
        for port in [port, next] {
            let worker: i64 = get(port, "/worker").trim().parse().expect("a pid");
            assert!(service.pids().contains(&worker) && worker != service.root());
        }
        let page = ask_unix(&socket, &http("GET", "/page", "")).expect("it listens");
        assert_eq!(answer(&page), (200, "a page\n".repeat(1000).as_str()));

        // New workers with another configuration; the old ones end, and the listening sockets stay.
        let workers = service.pids();
        fs::write(service.file("nginx.conf"), config(service.directory(), round)).expect("the configuration");
        service.signal("HUP");
        service.eventually("reload", || {
            (get(next, "/reloaded") == format!("{round}\n") && get(port, "/reloaded") == format!("{round}\n"))
                .then_some(())
        });
        let root = service.root();
        let start = std::time::Instant::now();
        while service.pids().iter().any(|pid| *pid != root && workers.contains(pid)) {
            assert!(start.elapsed().as_secs() < 60, "old workers stay");
        }
        assert_eq!(service.pids().len(), 5);
        served = accepted();
    });
    service.signal("QUIT");
    service.end();
}

#[test]
fn pushgateway_keeps_its_metrics() {
    let port = free_port();
    let started =
        Service::start("pushgateway", &[], |_| vec![format!("--web.listen-address=127.0.0.1:{port}")]);
    let Some(mut service) = started else { return };
    let push = |job: &str, value: u32| {
        let body = format!("# TYPE answer gauge\nanswer{{of=\"it\"}} {value}\n");
        let text = ask_tcp(port, &http("POST", &format!("/metrics/job/{job}"), &body)).expect("it listens");
        assert_eq!(answer(&text).0, 200, "{text}");
    };
    service.eventually("ready", || {
        let text = ask_tcp(port, &http("GET", "/-/ready", ""))?;
        (answer(&text).0 == 200).then_some(())
    });
    push("before", 42);

    service.dump_and_restore(|_, round| {
        let job = format!("round{round}");
        push(&job, round);
        let metrics = get(port, "/metrics");
        for (job, value) in [("before", 42), (&job, round)] {
            let line = format!("answer{{instance=\"\",job=\"{job}\",of=\"it\"}} {value}\n");
            assert!(metrics.contains(&line), "{line} is not in {metrics}");
        }
    });
    service.signal("TERM");
    service.end();
}

#[test]
fn a_server_of_node() {
    let port = free_port();
    // Else it gives memory back when it has been idle for some seconds, and maps cannot be compared.
    let settings = ["--no-memory-reducer", "--no-scavenge-task", "--expose-gc"].map(str::to_owned);
    let started = Service::start("node", &[], |_| {
        settings.into_iter().chain([text_of(&script("server.js")), port.to_string()]).collect()
    });
    let Some(mut service) = started else { return };
    service.eventually("node", || ask_tcp(port, &http("GET", "/ticks", "")));
    assert_eq!(get(port, "/put/before/dump"), "ok");
    assert_eq!(get(port, "/add/1000"), "1000");
    let computed = get(port, "/compute/5000000");
    let mut ticks: u64 = get(port, "/ticks").parse().expect("a number");

    service.dump_and_restore(|_, round| {
        assert_eq!(get(port, "/get/before"), "dump");
        assert_eq!(get(port, "/add/1"), (1000 + round).to_string());
        assert_eq!(get(port, "/compute/5000000"), computed);
        assert_eq!(get(port, "/later/100"), "later");
        assert_eq!(get(port, "/garbage"), "4");
        let now: u64 = get(port, "/ticks").parse().expect("a number");
        assert!(now > ticks, "its timer has stopped");
        ticks = now;
    });
    assert_eq!(get(port, "/quit"), "bye");
    service.end();
}
