//! website-operator.
