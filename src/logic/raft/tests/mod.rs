//! Tests of the whole machine: a network of members driven by chance, transcripts, the paper's claims.

mod codec;
mod hostile;
mod lab;
mod member;
mod net;
mod paper;
mod random;
mod script;
mod show;
