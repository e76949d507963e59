//! The remote protocol, packet by packet, against the toy recording.
//!
//! `tests/rsp/*.rsp` are transcripts: a line of settings, then `> packet` and the answers that must follow, `< packet`
//! each. Bytes that are no printable ASCII are written `\xx`. They are replayed whole, split at every byte boundary,
//! and over a real socket byte by byte. `UPDATE_EXPECT=1` writes the answers that come.

mod toy;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use retrovisor::gdb::framing::{Deframer, Event, PACKET_BYTES_MAX, frame};
use retrovisor::gdb::session::{Flow, Session};
use retrovisor::gdb::{Server, syntax};
use toy::{FOREVER, Toy};

/// A transcript: the toy's settings, and packets with their answers.
struct Transcript {
    settings: String,
    exchanges: Vec<(String, Vec<String>)>,
}

fn transcripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/rsp");
    let mut all: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    all.retain(|path| path.extension().is_some_and(|e| e == "rsp"));
    all.sort();
    assert!(!all.is_empty());
    all
}

fn parse(path: &Path) -> Transcript {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let settings = lines.next().unwrap().to_string();
    let mut exchanges: Vec<(String, Vec<String>)> = Vec::new();
    for line in lines {
        match line.split_at_checked(1) {
            Some((">", packet)) => exchanges.push((packet.trim_start().into(), Vec::new())),
            Some(("<", packet)) => {
                exchanges
                    .last_mut()
                    .expect("an answer to nothing")
                    .1
                    .push(packet.trim_start().into());
            }
            _ => panic!("{}: {line:?}", path.display()),
        }
    }
    Transcript {
        settings,
        exchanges,
    }
}

/// `\xx` and plain characters to bytes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&c, tail)) = rest.split_first() {
        if c == b'\\' {
            out.extend(syntax::bytes(&tail[..2]).unwrap());
            rest = &tail[2..];
        } else {
            out.push(c);
            rest = tail;
        }
    }
    out
}

fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&c| match c {
            b' '..=b'~' if c != b'\\' => (c as char).to_string(),
            c => format!("\\{c:02x}"),
        })
        .collect()
}

/// "cpus=2 end=100 at=50 diverges=70"
fn toy(settings: &str) -> Toy {
    let mut toy = Toy::new(1, 1000);
    for (name, value) in settings
        .split_whitespace()
        .map(|word| word.split_once('=').unwrap())
    {
        let value: u64 = value.parse().unwrap();
        match name {
            "cpus" => toy.cpus = value as usize,
            "end" => toy.end = value,
            "at" => toy.position = value,
            "diverges" => toy.diverges_at = Some(value),
            other => panic!("{other}?"),
        }
    }
    toy
}

impl Transcript {
    fn sent(&self) -> Vec<u8> {
        self.exchanges
            .iter()
            .flat_map(|(packet, _)| frame(&bytes(packet)))
            .collect()
    }

    /// What must come back, acknowledgements included.
    fn wanted(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut acknowledge = true;
        for (packet, answers) in &self.exchanges {
            if acknowledge {
                out.push(b'+');
            }
            answers
                .iter()
                .for_each(|answer| out.extend(frame(&bytes(answer))));
            acknowledge &= packet != "QStartNoAckMode";
        }
        out
    }
}

/// Feeds bytes to a session as they would come from a socket; returns what it wrote and whether it is over.
fn feed(session: &mut Session<'_>, deframer: &mut Deframer, bytes: &[u8]) -> (Vec<u8>, Flow) {
    let interrupt = AtomicBool::new(false);
    let mut out = Vec::new();
    for &byte in bytes {
        let Some(event) = deframer.push(byte) else {
            continue;
        };
        if session.event(event, &mut out, &interrupt).unwrap() == Flow::Over {
            return (out, Flow::Over);
        }
    }
    (out, Flow::On)
}

/// The packets in what a server wrote.
fn packets(wire: &[u8]) -> Vec<Vec<u8>> {
    let mut deframer = Deframer::new();
    let events: Vec<Event> = wire.iter().filter_map(|&b| deframer.push(b)).collect();
    events
        .into_iter()
        .filter_map(|event| match event {
            Event::Packet(body) => Some(body),
            Event::Resend => None,
            other => panic!("the server sent {other:?}"),
        })
        .collect()
}

#[test]
fn transcripts_hold() {
    for path in transcripts() {
        let mut transcript = parse(&path);
        let mut toy = toy(&transcript.settings);
        let mut session = Session::new(&mut toy);
        let mut deframer = Deframer::new();
        let bless = std::env::var_os("UPDATE_EXPECT").is_some();
        for (packet, answers) in &mut transcript.exchanges {
            let (wire, _) = feed(&mut session, &mut deframer, &frame(&bytes(packet)));
            let got: Vec<String> = packets(&wire).iter().map(|packet| text(packet)).collect();
            if bless {
                *answers = got;
            } else {
                assert_eq!(&got, answers, "{}: answers to {packet}", path.display());
            }
        }
        if bless {
            rewrite(&path, &transcript);
        }
    }
}

/// Writes a transcript back with other answers, its comments kept.
fn rewrite(path: &Path, transcript: &Transcript) {
    let old = fs::read_to_string(path).unwrap();
    let mut new = String::new();
    let mut exchanges = transcript.exchanges.iter();
    for line in old.lines().filter(|line| !line.starts_with('<')) {
        new.push_str(line);
        new.push('\n');
        if line.starts_with('>') {
            for answer in &exchanges.next().unwrap().1 {
                new.push_str(format!("< {answer}").trim_end());
                new.push('\n');
            }
        }
    }
    fs::write(path, new).unwrap();
}

#[test]
fn transcripts_hold_split_anywhere() {
    for path in transcripts() {
        let transcript = parse(&path);
        let (sent, wanted) = (transcript.sent(), transcript.wanted());
        for cut in 0..=sent.len() {
            let mut toy = toy(&transcript.settings);
            let mut session = Session::new(&mut toy);
            let mut deframer = Deframer::new();
            let (mut got, flow) = feed(&mut session, &mut deframer, &sent[..cut]);
            if flow == Flow::On {
                got.extend(feed(&mut session, &mut deframer, &sent[cut..]).0);
            }
            assert_eq!(text(&got), text(&wanted), "{} cut at {cut}", path.display());
        }
    }
}

/// Sets a flag when it goes away, in a panic too: a server must not outlive its client's test.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Serves a toy while `body` runs.
fn serving<T: Send>(toy: &mut Toy, body: impl FnOnce(&str) -> T + Send) -> T {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let _quit = SetOnDrop(&quit);
            body(&address)
        });
        server.serve(toy, &quit).unwrap();
        client.join().unwrap()
    })
}

/// A client of a real server.
struct Client {
    stream: TcpStream,
    deframer: Deframer,
}

impl Client {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Self {
            stream,
            deframer: Deframer::new(),
        }
    }

    fn send(&mut self, body: &str) {
        self.stream.write_all(&frame(body.as_bytes())).unwrap();
    }

    fn receive(&mut self) -> String {
        let mut byte = [0];
        loop {
            self.stream.read_exact(&mut byte).expect("an answer");
            if let Some(Event::Packet(body)) = self.deframer.push(byte[0]) {
                return text(&body);
            }
        }
    }

    fn ask(&mut self, body: &str) -> String {
        self.send(body);
        self.receive()
    }
}

#[test]
fn transcripts_hold_over_a_socket_byte_by_byte() {
    for path in transcripts() {
        let transcript = parse(&path);
        let got = serving(&mut toy(&transcript.settings), |address| {
            let mut client = Client::connect(address);
            for byte in transcript.sent() {
                if client.stream.write_all(&[byte]).is_err() {
                    break; // the session is over, and some bytes were left
                }
            }
            let wanted: usize = transcript
                .exchanges
                .iter()
                .map(|(_, answers)| answers.len())
                .sum();
            (0..wanted).map(|_| client.receive()).collect::<Vec<_>>()
        });
        let wanted: Vec<String> = transcript
            .exchanges
            .into_iter()
            .flat_map(|(_, answers)| answers)
            .collect();
        assert_eq!(got, wanted, "{}", path.display());
    }
}

#[test]
fn an_interrupt_is_heard_at_once_in_both_directions() {
    let mut toy = Toy {
        position: FOREVER / 2,
        ..Toy::new(1, FOREVER)
    };
    serving(&mut toy, |address| {
        let mut client = Client::connect(address);
        for run in ["vCont;c", "bc"] {
            client.send(run);
            thread::sleep(Duration::from_millis(200));
            let sent = Instant::now();
            client.stream.write_all(b"\x03").unwrap();
            let stop = client.receive();
            assert!(stop.starts_with("T02thread:01;"), "{stop}");
            assert!(
                sent.elapsed() < Duration::from_millis(100),
                "{:?}",
                sent.elapsed()
            );
            // In one piece with the packet that runs.
            client
                .stream
                .write_all(&[&frame(run.as_bytes())[..], b"\x03"].concat())
                .unwrap();
            assert!(client.receive().starts_with("T02"));
        }
        // While nothing runs it means nothing, not even for the next run.
        client.stream.write_all(b"\x03").unwrap();
        assert_eq!(client.ask("Z0,401010,1"), "OK");
        assert!(client.ask("vCont;c").contains("swbreak"));
    });
}

#[test]
fn a_client_that_vanishes_or_stays_leaves_room_for_the_next() {
    let mut toy = Toy::new(1, FOREVER);
    serving(&mut toy, |address| {
        let mut running = Client::connect(address);
        running.send("vCont;c");
        thread::sleep(Duration::from_millis(50));
        drop(running);
        let mut first = Client::connect(address);
        assert!(first.ask("?").starts_with("T05"));
        // A second one is turned away, and the first goes on.
        let mut second = Client::connect(address);
        second.stream.write_all(&frame(b"?")).unwrap();
        let mut nothing = Vec::new();
        let _ = second.stream.read_to_end(&mut nothing);
        assert_eq!(nothing, b"");
        assert!(first.ask("?").starts_with("T05"));
        // One who comes while the first is leaving is served.
        let mut third = Client::connect(address);
        assert_eq!(first.ask("D"), "OK");
        assert!(third.ask("?").starts_with("T05"));
    });
}

#[test]
fn quitting_is_heard_while_the_machine_runs() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let address = server.address().unwrap();
    let quit = AtomicBool::new(false);
    let mut toy = Toy::new(1, FOREVER);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::connect(&address);
            client.send("vCont;c");
            thread::sleep(Duration::from_millis(100));
            quit.store(true, Ordering::SeqCst);
            assert!(client.receive().starts_with("T02"));
        });
        server.serve(&mut toy, &quit).unwrap();
    });
}

#[test]
fn unix_sockets_come_and_go() {
    let path = std::env::temp_dir().join(format!("retrovisor-test-{}", std::process::id()));
    let address = format!("unix:{}", path.display());
    let server = Server::bind(&address).unwrap();
    assert_eq!(server.address().unwrap(), path.display().to_string());
    assert!(
        Server::bind(&address)
            .unwrap_err()
            .to_string()
            .contains("cannot listen at unix:")
    );
    drop(server);
    assert!(!path.exists());
    // What a killed server left behind is replaced; what is no socket is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    drop(Server::bind(&address).unwrap());
    fs::write(&path, "precious").unwrap();
    assert!(Server::bind(&address).is_err());
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();
}

#[test]
fn a_port_in_use_is_said_in_one_line() {
    let server = Server::bind("127.0.0.1:0").unwrap();
    let error = Server::bind(&server.address().unwrap())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.starts_with("cannot listen at 127.0.0.1:") && error.contains("in use"),
        "{error}"
    );
    assert!(Server::bind("nonsense").is_err());
}

#[test]
fn broken_packets_are_asked_for_again_and_oversized_ones_refused() {
    let mut toy = Toy::new(1, 100);
    let mut session = Session::new(&mut toy);
    let mut deframer = Deframer::new();
    let mut say = |bytes: &[u8]| text(&feed(&mut session, &mut deframer, bytes).0);
    assert_eq!(say(b"$qAttached#00"), "-");
    assert_eq!(say(&frame(b"qAttached")), "+$1#31");
    assert_eq!(say(b"-"), "$1#31");
    assert_eq!(say(b"+++"), "");
    let huge = frame(&vec![b'm'; PACKET_BYTES_MAX]);
    assert_eq!(say(&huge), "+$E.packet too long#2d");
    assert_eq!(say(&frame(b"QStartNoAckMode")), "+$OK#9a");
    assert_eq!(say(b"$qAttached#00"), "$E.wrong checksum#13");
    assert_eq!(say(b"-"), "");
    assert_eq!(say(&frame(b"qAttached")), "$1#31");
}

/// GDB's own algorithm, from the description of qCRC in its manual.
#[test]
fn checksums_are_what_gdb_computes() {
    let mut toy = Toy::new(1, 100);
    let mut memory = vec![0; 0x1000];
    use retrovisor::timeline::api::Debuggee;
    assert_eq!(toy.read_virtual(0, toy::DATA, &mut memory), 0x1000);
    let mut crc = u32::MAX;
    for byte in memory {
        crc ^= u32::from(byte) << 24;
        for _ in 0..8 {
            crc = if crc >> 31 == 1 {
                crc << 1 ^ 0x04c1_1db7
            } else {
                crc << 1
            };
        }
    }
    let mut session = Session::new(&mut toy);
    let (wire, _) = feed(
        &mut session,
        &mut Deframer::new(),
        &frame(b"qCRC:600000,1000"),
    );
    assert_eq!(packets(&wire), [format!("C{crc:x}").into_bytes()]);
}

/// A fixed sequence of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// Packets that GDB sends, to be damaged.
const SEEDS: &[&str] = &[
    "?",
    "g",
    "p10",
    "P0=00",
    "G00",
    "m600000,40",
    "M600000,1:00",
    "X600000,1:a",
    "x600000,40",
    "Hgp1.1",
    "Hc-1",
    "Tp1.2",
    "qC",
    "qSupported:multiprocess+;swbreak+",
    "qXfer:features:read:target.xml:0,ffb",
    "qXfer:threads:read::0,1000",
    "qSearch:memory:600000;1000;ab",
    "qCRC:600000,100",
    "qRcmd,68656c70",
    "qRcmd,7365656b20353025",
    "Z0,401010,1",
    "z0,401010,1",
    "Z1,401010,1;X2,2710",
    "Z2,600000,8",
    "z2,600000,8",
    "Z3,600100,8",
    "Z4,600200,8",
    "vCont?",
    "vCont;c",
    "vCont;s:p1.1;c:p1.-1",
    "vCont;r401000,401010:p1.1;c",
    "vCont;C02",
    "bc",
    "bs",
    "s",
    "c",
    "D",
    "k",
    "vKill;1",
    "qfThreadInfo",
    "qsThreadInfo",
    "QStartNoAckMode",
    "Qqemu.PhyMemMode:1",
    "qqemu.PhyMemMode",
    "vMustReplyEmpty",
    "qAttached",
    "!",
    "R00",
    "vRun",
    "qOffsets",
];

fn damaged(random: &mut Random) -> Vec<u8> {
    let mut packet = SEEDS[random.below(SEEDS.len())].as_bytes().to_vec();
    const LIKELY: &[u8] = b"0123456789abcdefghp.,;:-=X}*\x03\x00\xff ";
    for _ in 0..random.below(4) {
        let at = random.below(packet.len() + 1);
        match random.below(4) {
            0 if at < packet.len() => drop(packet.remove(at)),
            1 if at < packet.len() => packet[at] = LIKELY[random.below(LIKELY.len())],
            2 => packet.truncate(at),
            _ => packet.insert(at, LIKELY[random.below(LIKELY.len())]),
        }
    }
    if random.below(8) == 0 {
        packet.extend_from_slice(SEEDS[random.below(SEEDS.len())].as_bytes());
    }
    // These two would cut the packet in the frame.
    packet.retain(|&c| c != b'#' && c != b'$');
    packet
}

#[test]
fn random_packets_end_no_session_and_each_gets_one_answer() {
    let mut random = Random(0x5eed_0f9d_b000_0001);
    let mut toy = Toy::new(2, 300);
    let mut sessions = 0;
    let mut sent = 0;
    while sent < 60_000 {
        sessions += 1;
        let mut session = Session::new(&mut toy);
        let mut deframer = Deframer::new();
        loop {
            sent += 1;
            let packet = damaged(&mut random);
            let (wire, flow) = feed(&mut session, &mut deframer, &frame(&packet));
            // Console output may come before the answer; OK is no output.
            let answers = packets(&wire)
                .iter()
                .filter(|p| p.first() != Some(&b'O') || *p == b"OK")
                .count();
            if flow == Flow::Over {
                assert!(
                    matches!(packet[0], b'D' | b'k' | b'v'),
                    "ended by {}",
                    text(&packet)
                );
                break;
            }
            assert_eq!(answers, 1, "{} answered by {}", text(&packet), text(&wire));
            let (wire, flow) = feed(&mut session, &mut deframer, &frame(b"?"));
            assert_eq!(flow, Flow::On);
            assert!(
                packets(&wire)[0].starts_with(b"T05thread:"),
                "after {}",
                text(&packet)
            );
        }
    }
    assert!(sessions > 10, "some were ended by a farewell: {sessions}");
}

#[test]
fn random_bytes_end_no_session() {
    let mut random = Random(77);
    let mut toy = Toy::new(1, 300);
    let mut session = Session::new(&mut toy);
    let mut deframer = Deframer::new();
    for _ in 0..200 {
        let noise: Vec<u8> = (0..random.below(3000))
            .map(|_| random.next() as u8)
            .collect();
        let (_, flow) = feed(&mut session, &mut deframer, &noise);
        assert_eq!(flow, Flow::On);
        // A `$` ends whatever the noise began.
        let (wire, _) = feed(&mut session, &mut deframer, b"$?#3f$?#3f");
        assert!(packets(&wire).last().unwrap().starts_with(b"T05"));
    }
}
