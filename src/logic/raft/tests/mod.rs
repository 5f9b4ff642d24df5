//! Tests of the whole machine: a network of members driven by chance, transcripts, the paper's claims.

mod lab;
mod member;
mod random;
mod script;
mod show;
