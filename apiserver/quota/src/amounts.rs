//! Amounts of resources, and how they add up.

use std::collections::BTreeMap;
use std::fmt;

use schema::quantity::{self, Family, Quantity};
use serde_json::{Map, Value};

/// How much of one resource; it is written with the suffixes that it was first given in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Amount {
    /// In thousand-millionths of the resource's unit.
    pub nano: i128,
    /// Decimal or binary suffixes.
    pub family: Family,
}

impl Amount {
    /// So many whole units.
    pub fn of(units: i128) -> Self {
        Self { nano: units.saturating_mul(1_000_000_000), family: Family::Decimal }
    }

    /// Reads a quantity; what is none counts as zero, since validation has seen it before.
    pub fn read(value: &Value) -> Self {
        let parsed = match value {
            Value::String(text) => quantity::parse(text),
            other => quantity::parse(&other.to_string()),
        };
        parsed.map_or_else(|_| Self::default(), |q| Self { nano: q.nano(), family: q.family })
    }

    /// Whether this is the same amount, however it is written.
    pub fn equals(self, other: Self) -> bool {
        self.nano == other.nano
    }

    /// Rounded up to whole units.
    #[must_use]
    pub fn whole(self) -> Self {
        const UNIT: i128 = 1_000_000_000;
        let rest = self.nano.rem_euclid(UNIT);
        let nano = if rest == 0 { self.nano } else { self.nano - rest + UNIT };
        Self { nano, ..self }
    }

    fn with(self, nano: i128, other: Self) -> Self {
        let family = if self.nano == 0 { other.family } else { self.family };
        Self { nano, family }
    }
}

impl std::ops::Add for Amount {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        self.with(self.nano.saturating_add(other.nano), other)
    }
}

impl std::ops::Sub for Amount {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self.with(self.nano.saturating_sub(other.nano), other)
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Quantity::from_nano(self.nano, self.family).fmt(f)
    }
}

/// Amounts by the name of the resource.
#[derive(Debug, Clone, Default)]
pub struct Amounts(pub BTreeMap<String, Amount>);

impl Amounts {
    /// Reads a `ResourceList`.
    pub fn read(list: &Value) -> Self {
        let entries = list.as_object().into_iter().flatten();
        Self(entries.map(|(name, value)| (name.clone(), Amount::read(value))).collect())
    }

    /// As a `ResourceList`.
    pub fn to_value(&self) -> Value {
        let entries = self.0.iter().map(|(name, amount)| (name.clone(), amount.to_string().into()));
        entries.collect::<Map<_, _>>().into()
    }

    /// The amount of one resource, if there is any.
    pub fn get(&self, name: &str) -> Option<Amount> {
        self.0.get(name).copied()
    }

    /// Sets the amount of one resource.
    pub fn set(&mut self, name: impl Into<String>, amount: Amount) {
        self.0.insert(name.into(), amount);
    }

    /// Adds to the amount of one resource.
    pub fn add(&mut self, name: &str, amount: Amount) {
        match self.0.get_mut(name) {
            Some(mine) => *mine = *mine + amount,
            None => self.set(name, amount),
        }
    }

    /// Adds every amount of another list.
    pub fn add_all(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            self.add(name, *amount);
        }
    }

    /// Raises every amount to at least that of another list.
    pub fn raise_to(&mut self, other: &Self) {
        for (name, amount) in &other.0 {
            if self.get(name).is_none_or(|mine| mine.nano < amount.nano) {
                self.set(name.clone(), *amount);
            }
        }
    }

    /// What is left of this after another list was taken away; resources of either.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut left = self.clone();
        for (name, amount) in &other.0 {
            let mine = left.get(name).unwrap_or(Amount { nano: 0, family: amount.family });
            left.set(name.clone(), mine - *amount);
        }
        left
    }

    /// The resources that `chosen` says.
    #[must_use]
    pub fn only(&self, mut chosen: impl FnMut(&str) -> bool) -> Self {
        let kept = self.0.iter().filter(|(name, _)| chosen(name));
        Self(kept.map(|(name, amount)| (name.clone(), *amount)).collect())
    }

    /// Whether both have the same resources in the same amounts.
    pub fn equals(&self, other: &Self) -> bool {
        self.0.len() == other.0.len()
            && self
                .0
                .iter()
                .all(|(name, amount)| other.get(name).is_some_and(|o| o.equals(*amount)))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the resources, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

/// `cpu=1,memory=1Gi`, in the order of the names.
impl fmt::Display for Amounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (name, amount)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            write!(f, "{comma}{name}={amount}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_add_up_and_keep_their_suffixes() {
        let mut sum = Amounts::read(&json!({"cpu": "500m", "memory": "512Mi"}));
        sum.add_all(&Amounts::read(&json!({"cpu": "1500m", "memory": "0.5Gi", "gpu": 1})));
        assert_eq!(sum.to_string(), "cpu=2,gpu=1,memory=1Gi");
        let left = sum.minus(&Amounts::read(&json!({"cpu": "1", "disk": "1Gi"})));
        assert_eq!(left.to_string(), "cpu=1,disk=-1Gi,gpu=1,memory=1Gi");
    }

    #[test]
    fn the_larger_amount_wins() {
        let mut most = Amounts::read(&json!({"cpu": "1", "memory": "1Gi"}));
        most.raise_to(&Amounts::read(&json!({"cpu": "2", "memory": "1Mi", "gpu": "1"})));
        assert!(most.equals(&Amounts::read(&json!({"cpu": "2000m", "memory": "1Gi", "gpu": "1"}))));
    }
}
