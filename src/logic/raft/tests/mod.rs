//! Tests of the whole machine: a network of members driven by chance, transcripts, the paper's claims.

mod member;
mod random;
mod show;
