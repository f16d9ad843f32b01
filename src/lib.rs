//! regrow regrows process trees from CRIU checkpoints, by a plan that is checked before it runs.
//!
//! ```text
//!  image directory                                                                    live process tree
//!       │ read                                                                                ▲ run
//!       ▼          resolve            order                lower              certify         │
//!    Model ──────────────▶ Forest ─────────────▶ Programs ──────────▶ Tapes ──────────▶ Certificate
//!    image      resolve, host      regrow-graph          lower, tape        certify       coordinator
//! ```
//!
//! | module | turns | into |
//! |---|---|---|
//! | [`image`] | bytes of `*.img` | a typed [`image::Model`] |
//! | [`host`] | this machine | facts |
//! | [`resolve`] | model and facts | resources, users, recipes, and all problems found |
//! | `regrow-graph` | resources and tasks | a DAG of operations, one program a task |
//! | [`lower`] | operations | system calls |
//! | [`tape`] | calls and buffers | flat records at fixed addresses, and back |
//! | [`certify`] | the tapes, lifted | a certificate, or a counterexample |
//! | [`coordinator`] | tapes | running tasks, or nothing at all |
//! | [`report`] | any of these | text, JSON, DOT |
//!
//! [`synth`] makes models of forests that never were dumped, for demonstrations and tests.
//!
//! Data flows one way: a module imports only from those above it in this table (and [`sys`], the
//! wrappers over raw system calls, and [`runner`], what plays a tape inside a task).
#![deny(unsafe_code)]

pub mod certify;
pub mod coordinator;
pub mod cost;
pub mod host;
pub mod image;
pub mod lower;
pub mod pipeline;
pub mod report;
pub mod resolve;
pub mod runner;
pub mod store;
pub mod synth;
pub mod sys;
pub mod tape;
