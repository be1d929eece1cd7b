//! What a server sent, and what was put by of it, damaged by chance: whoever reads it answers, and never panics; and what is
//! read of it is written as the same bytes.
//!
//! Rounds begin with what was recorded, and go on with what was damaged before, so damage adds up. There are so many rounds
//! that it takes a few seconds, or as many as `cargo x fuzz --rounds N` says; a failure tells the seed of its round (`--replay SEED`).

use bytes::{Bytes, BytesMut};
use pgconvoy_flow::copy::{Frames, Run, Then};
use pgconvoy_flow::stream::assemble::{Assembler, Step};
use pgconvoy_flow::stream::decode::Decoder;
use pgconvoy_flow::stream::encode::encode;

use crate::chance::{Chance, setting};
use crate::recorded;

const ROUNDS: u64 = 20_000;

/// After so many the damage begins with what was recorded again.
const GENERATIONS: usize = 8;

/// Bytes that mean something somewhere, and lengths at which something ends.
const TELLING: [&[u8]; 14] = [
    b"B",
    b"C",
    b"S",
    b"E",
    b"c",
    b"A",
    b"N",
    b"K",
    b"O",
    b"u",
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
];

/// Gives each round its damaged pieces; what it does with them may fail.
fn rounds(recorded: &[Vec<u8>], mut read: impl FnMut(&[Vec<u8>], &mut Chance)) {
    let only = setting("PGCONVOY_FUZZ_SEED");
    let count = setting("PGCONVOY_FUZZ_ROUNDS").unwrap_or(ROUNDS);
    let seeds = only.map_or(0..count, |seed| seed..seed + 1);
    for seed in seeds {
        let told = Told(seed);
        let mut chance = Chance::new(seed);
        let mut pieces = recorded.to_vec();
        for _ in 0..=chance.below(GENERATIONS) {
            damage(&mut pieces, &mut chance);
        }
        read(&pieces, &mut chance);
        drop(told);
    }
}

/// Names the round in which something panicked.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay it with `cargo x fuzz --replay {}`", self.0);
        }
    }
}

/// Pieces are lost, doubled, or change places; or one of them is damaged in itself.
fn damage(pieces: &mut Vec<Vec<u8>>, chance: &mut Chance) {
    if pieces.is_empty() {
        return;
    }
    let at = chance.below(pieces.len());
    let other = chance.below(pieces.len());
    match chance.below(10) {
        0 => drop(pieces.remove(at)),
        1 => pieces.insert(at, pieces[other].clone()),
        2 => pieces.swap(at, other),
        3 => {
            let from = chance.below(pieces[other].len() + 1);
            let end = pieces[other][from..].to_vec();
            let piece = &mut pieces[at];
            piece.truncate(chance.below(piece.len() + 1));
            piece.extend(end);
        }
        _ => damage_one(&mut pieces[at], chance),
    }
}

fn damage_one(piece: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(piece.len() + 1);
    let telling = *chance.of(&TELLING);
    match chance.below(5) {
        0 => piece.truncate(at),
        1 => piece.extend_from_slice(telling),
        2 => drop(piece.splice(at..at, telling.iter().copied())),
        3 => {
            let end = piece.len().min(at + telling.len());
            drop(piece.splice(at..end, telling.iter().copied()));
        }
        _ => {
            if let Some(byte) = piece.get_mut(at) {
                *byte ^= 1 << chance.below(8);
            }
        }
    }
}

#[test]
fn a_damaged_stream_is_read_or_refused() {
    let recorded: Vec<Vec<u8>> = recorded::messages().map(|message| message.to_vec()).collect();
    let (mut read, mut refused, mut committed) = (0_u64, 0_u64, 0_u64);
    rounds(&recorded, |messages, chance| {
        let mut decoder = Decoder::default();
        let mut assembler = Assembler::default();
        let mut spooled = Vec::new();
        for message in messages {
            let message = Bytes::from(message.clone());
            let Ok(received) = decoder.decode(message.clone()) else {
                refused += 1;
                continue;
            };
            assert_eq!(encode(&received), message);
            read += 1;
            let Ok(step) = assembler.take(received) else { return };
            if chance.happens(5) {
                spooled
                    .extend(assembler.spill().into_iter().flatten().map(|record| record.to_vec()));
            }
            if let Step::Streamed(streamed) = step {
                committed += 1;
                if let Some(reader) = &streamed.spooled {
                    if chance.happens(50) {
                        damage(&mut spooled, chance);
                    }
                    let mut file = BytesMut::from(&*spooled.concat());
                    while let Ok(Some(_)) = reader.next(&mut file) {}
                    spooled.clear();
                }
                streamed.into_items().for_each(drop);
            }
        }
    });
    eprintln!("{read} messages read, {refused} refused, {committed} transactions of blocks");
    assert!(setting("PGCONVOY_FUZZ_SEED").is_some() || read.min(refused).min(committed) > 0);
}

/// COPY data that is read in pieces is passed on as what is read at once; and nothing but what came.
#[test]
fn damaged_copy_data_is_passed_on_alike_however_it_is_cut() {
    let row = |length: usize| {
        let payload = "a row of text\t1\t\\N\n".repeat(length);
        let length = u32::try_from(payload.len() + 4).unwrap();
        [b"d", &length.to_be_bytes()[..], payload.as_bytes()].concat()
    };
    let mut recorded: Vec<Vec<u8>> = (0..12).map(row).collect();
    recorded.push(b"c\0\0\0\x04".to_vec());
    let (mut whole, mut bad) = (0_u64, 0_u64);
    rounds(&recorded, |pieces, chance| {
        let stream = pieces.concat();
        let mut at_once = Frames::default();
        let run = at_once.walk(&stream);
        match run {
            Ok(_) => whole += 1,
            Err(_) => bad += 1,
        }
        let mut frames = Frames::default();
        let (mut passed, mut read) = (0, 0);
        let in_pieces = loop {
            match frames.walk(&stream[passed..read]) {
                Ok(Run { bytes, then: Then::More }) if read < stream.len() => {
                    passed += bytes;
                    read += 1 + chance.below((stream.len() - read).min(100));
                }
                Ok(Run { bytes, then }) => break Ok(Run { bytes: passed + bytes, then }),
                Err(bad) => break Err(bad),
            }
        };
        assert_eq!(in_pieces, run);
        assert_eq!(frames, at_once);
        assert!(run.is_err() || run.is_ok_and(|run| run.bytes <= stream.len()));
    });
    eprintln!("{whole} streams passed on, {bad} refused");
    assert!(setting("PGCONVOY_FUZZ_SEED").is_some() || whole.min(bad) > 0);
}
