//! Hostile input for regrow: image directories, single images and tapes, by libFuzzer.
//!
//! | module | does |
//! |---|---|
//! | [`archive`] | a directory of small files in one input, and back |
//! | [`wire`] | changes protobuf messages field by field, knowing nothing of what they mean |
//! | [`mutate`] | changes images, archives and tapes so that most of what comes out gets past the first checks |
//! | [`host`] | facts about a host, gathered once; and a directory in memory |
//! | [`seeds`] | directories and tapes to start from: synthetic ones, with every kind of open file |
//! | [`tape`] | tapes in one input, and back |
//! | [`limit`] | what a run may take of memory and of time |
//!
//! The targets (`targets/*.rs`) are the only users. `scripts/fuzz TARGET SECONDS` builds and runs one.
//!
//! What a run of a target must not do: panic, overflow (debug assertions and overflow checks are on), allocate more than
//! [`limit::TIMES`] times its input and [`limit::FLOOR_BYTES`], or take long.

pub mod archive;
pub mod host;
pub mod limit;
pub mod mutate;
pub mod seeds;
pub mod tape;
pub mod wire;
