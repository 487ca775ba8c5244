//! Answers to requests, by verb.
