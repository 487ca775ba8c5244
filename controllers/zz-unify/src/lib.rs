//! Holds the features of all shared dependencies together, so that building one package alone
//! takes the same builds of them as building all.
