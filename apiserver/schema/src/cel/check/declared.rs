//! The operators and functions that expressions may use, with their types.
//!
//! Source: `cel-go/common/stdlib`, `cel-go/ext/{strings,lists,sets}.go`, `cel-go/cel/library.go` and upstream's
//! `apiserver/pkg/cel/{environment,library}`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use super::super::types::Type;

/// Each line is one way to call a function. `A` and `B` stand for any types; a receiver is before `::`.
const DECLARED: &str = "
_==_(A, A): bool
_!=_(A, A): bool
@in(A, list(A)): bool
@in(A, map(A, B)): bool
_[_](list(A), int): A
_[_](map(A, B), A): B
_[_](optional(list(A)), int): optional(A)
_[_](optional(map(A, B)), A): optional(B)
_[?_](list(A), int): optional(A)
_[?_](map(A, B), A): optional(B)
_[?_](optional(list(A)), int): optional(A)
_[?_](optional(map(A, B)), A): optional(B)
_?_:_(bool, A, A): A
!_(bool): bool
-_(int): int
-_(double): double
_+_(bytes, bytes): bytes
_+_(double, double): double
_+_(duration, duration): duration
_+_(duration, timestamp): timestamp
_+_(timestamp, duration): timestamp
_+_(int, int): int
_+_(list(A), list(A)): list(A)
_+_(string, string): string
_+_(uint, uint): uint
_-_(double, double): double
_-_(duration, duration): duration
_-_(int, int): int
_-_(timestamp, duration): timestamp
_-_(timestamp, timestamp): duration
_-_(uint, uint): uint
_*_(double, double): double
_*_(int, int): int
_*_(uint, uint): uint
_/_(double, double): double
_/_(int, int): int
_/_(uint, uint): uint
_%_(int, int): int
_%_(uint, uint): uint
cel.@mapInsert(map(A, B), A, B): map(A, B)
cel.@mapInsert(map(A, B), map(A, B)): map(A, B)
size(string): int
size(bytes): int
size(list(A)): int
size(map(A, B)): int
string::size(): int
bytes::size(): int
list(A)::size(): int
map(A, B)::size(): int
bool(bool): bool
bool(string): bool
bytes(bytes): bytes
bytes(string): bytes
double(double): double
double(int): double
double(string): double
double(uint): double
duration(duration): duration
duration(int): duration
duration(string): duration
dyn(A): dyn
int(int): int
int(double): int
int(duration): int
int(string): int
int(timestamp): int
int(uint): int
string(string): string
string(bool): string
string(bytes): string
string(double): string
string(duration): string
string(int): string
string(timestamp): string
string(uint): string
string(net.IP): string
string(net.CIDR): string
timestamp(timestamp): timestamp
timestamp(int): timestamp
timestamp(string): timestamp
type(A): type(A)
uint(uint): uint
uint(double): uint
uint(int): uint
uint(string): uint
matches(string, string): bool
string::matches(string): bool
string::contains(string): bool
string::endsWith(string): bool
string::startsWith(string): bool
timestamp::getDate(): int
timestamp::getDate(string): int
timestamp::getDayOfMonth(): int
timestamp::getDayOfMonth(string): int
timestamp::getDayOfWeek(): int
timestamp::getDayOfWeek(string): int
timestamp::getDayOfYear(): int
timestamp::getDayOfYear(string): int
timestamp::getFullYear(): int
timestamp::getFullYear(string): int
timestamp::getMonth(): int
timestamp::getMonth(string): int
timestamp::getHours(): int
timestamp::getHours(string): int
duration::getHours(): int
timestamp::getMinutes(): int
timestamp::getMinutes(string): int
duration::getMinutes(): int
timestamp::getSeconds(): int
timestamp::getSeconds(string): int
duration::getSeconds(): int
timestamp::getMilliseconds(): int
timestamp::getMilliseconds(string): int
duration::getMilliseconds(): int
optional.of(A): optional(A)
optional.ofNonZeroValue(A): optional(A)
optional.none(): optional(A)
optional.unwrap(list(optional(A))): list(A)
list(optional(A))::unwrapOpt(): list(A)
optional(A)::value(): A
optional(A)::hasValue(): bool
optional(A)::or(optional(A)): optional(A)
optional(A)::orValue(A): A
list(A)::first(): optional(A)
list(A)::last(): optional(A)
string::charAt(int): string
string::indexOf(string): int
string::indexOf(string, int): int
string::lastIndexOf(string): int
string::lastIndexOf(string, int): int
string::lowerAscii(): string
string::upperAscii(): string
string::trim(): string
string::replace(string, string): string
string::replace(string, string, int): string
string::split(string): list(string)
string::split(string, int): list(string)
string::substring(int): string
string::substring(int, int): string
string::format(list(dyn)): string
strings.quote(string): string
list(string)::join(): string
list(string)::join(string): string
string::find(string): string
string::findAll(string): list(string)
string::findAll(string, int): list(string)
list(A)::indexOf(A): int
list(A)::lastIndexOf(A): int
list(A)::slice(int, int): list(A)
list(list(A))::flatten(): list(A)
list(dyn)::flatten(int): list(dyn)
list(A)::distinct(): list(A)
list(A)::reverse(): list(A)
lists.range(int): list(int)
list(int)::sum(): int
list(uint)::sum(): uint
list(double)::sum(): double
list(duration)::sum(): duration
sets.contains(list(A), list(A)): bool
sets.equivalent(list(A), list(A)): bool
sets.intersects(list(A), list(A)): bool
url(string): kubernetes.URL
isURL(string): bool
kubernetes.URL::getScheme(): string
kubernetes.URL::getHost(): string
kubernetes.URL::getHostname(): string
kubernetes.URL::getPort(): string
kubernetes.URL::getEscapedPath(): string
kubernetes.URL::getQuery(): map(string, list(string))
quantity(string): kubernetes.Quantity
isQuantity(string): bool
kubernetes.Quantity::sign(): int
kubernetes.Quantity::isGreaterThan(kubernetes.Quantity): bool
kubernetes.Quantity::isLessThan(kubernetes.Quantity): bool
kubernetes.Quantity::compareTo(kubernetes.Quantity): int
kubernetes.Quantity::asApproximateFloat(): double
kubernetes.Quantity::asInteger(): int
kubernetes.Quantity::isInteger(): bool
kubernetes.Quantity::add(kubernetes.Quantity): kubernetes.Quantity
kubernetes.Quantity::add(int): kubernetes.Quantity
kubernetes.Quantity::sub(kubernetes.Quantity): kubernetes.Quantity
kubernetes.Quantity::sub(int): kubernetes.Quantity
semver(string): kubernetes.Semver
semver(string, bool): kubernetes.Semver
isSemver(string): bool
isSemver(string, bool): bool
kubernetes.Semver::isGreaterThan(kubernetes.Semver): bool
kubernetes.Semver::isLessThan(kubernetes.Semver): bool
kubernetes.Semver::compareTo(kubernetes.Semver): int
kubernetes.Semver::major(): int
kubernetes.Semver::minor(): int
kubernetes.Semver::patch(): int
ip(string): net.IP
isIP(string): bool
ip.isCanonical(string): bool
net.IP::family(): int
net.IP::isUnspecified(): bool
net.IP::isLoopback(): bool
net.IP::isLinkLocalMulticast(): bool
net.IP::isLinkLocalUnicast(): bool
net.IP::isGlobalUnicast(): bool
cidr(string): net.CIDR
isCIDR(string): bool
net.CIDR::containsIP(string): bool
net.CIDR::containsIP(net.IP): bool
net.CIDR::containsCIDR(string): bool
net.CIDR::containsCIDR(net.CIDR): bool
net.CIDR::ip(): net.IP
net.CIDR::prefixLength(): int
net.CIDR::masked(): net.CIDR
format.named(string): optional(kubernetes.NamedFormat)
kubernetes.NamedFormat::validate(string): optional(list(string))
jsonpatch.escapeKey(string): string
kubernetes.authorization.Authorizer::path(string): kubernetes.authorization.PathCheck
kubernetes.authorization.Authorizer::group(string): kubernetes.authorization.GroupCheck
kubernetes.authorization.Authorizer::serviceAccount(string, string): kubernetes.authorization.Authorizer
kubernetes.authorization.GroupCheck::resource(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck::subresource(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck::namespace(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck::name(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck::fieldSelector(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.ResourceCheck::labelSelector(string): kubernetes.authorization.ResourceCheck
kubernetes.authorization.PathCheck::check(string): kubernetes.authorization.Decision
kubernetes.authorization.ResourceCheck::check(string): kubernetes.authorization.Decision
kubernetes.authorization.Decision::errored(): bool
kubernetes.authorization.Decision::error(): string
kubernetes.authorization.Decision::allowed(): bool
kubernetes.authorization.Decision::reason(): string
";

/// Operators that put two values in an order.
const ORDERS: [&str; 4] = ["_<_", "_<=_", "_>_", "_>=_"];
const NUMBERS: [&str; 3] = ["int", "uint", "double"];
const OTHERS_IN_ORDER: [&str; 5] = ["bool", "string", "bytes", "timestamp", "duration"];
/// Functions of lists whose entries have an order: their names and what they answer.
const OF_ORDERED_LISTS: [(&str, &str); 4] =
    [("isSorted", "bool"), ("min", ""), ("max", ""), ("sort", "list")];
/// Formats that have a function of their name.
const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123LabelPrefix",
    "dns1123Subdomain",
    "dns1123SubdomainPrefix",
    "dns1035Label",
    "dns1035LabelPrefix",
    "qualifiedName",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// One way to call a function.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) is_method: bool,
    /// The receiver is the first.
    pub(super) takes: Vec<Type>,
    pub(super) answers: Type,
}

/// The ways to call a function; none if there is no such function.
pub(super) fn overloads(function: &str) -> Option<&'static [Overload]> {
    static ALL: LazyLock<HashMap<String, Vec<Overload>>> = LazyLock::new(all);
    ALL.get(function).map(Vec::as_slice)
}

fn all() -> HashMap<String, Vec<Overload>> {
    let mut all: HashMap<String, Vec<Overload>> = HashMap::new();
    let mut declare = |line: &str| {
        if let Some((name, overload)) = parse(line) {
            all.entry(name.to_owned()).or_default().push(overload);
        }
    };
    DECLARED.lines().filter(|line| !line.is_empty()).for_each(&mut declare);
    for name in FORMATS {
        declare(&format!("format.{name}(): kubernetes.NamedFormat"));
    }
    for order in ORDERS {
        for a in NUMBERS {
            NUMBERS.iter().for_each(|b| declare(&format!("{order}({a}, {b}): bool")));
        }
        OTHERS_IN_ORDER.iter().for_each(|a| declare(&format!("{order}({a}, {a}): bool")));
    }
    for of in NUMBERS.iter().chain(&OTHERS_IN_ORDER) {
        for (name, answer) in OF_ORDERED_LISTS {
            let answer = match answer {
                "" => (*of).to_owned(),
                "list" => format!("list({of})"),
                other => other.to_owned(),
            };
            declare(&format!("list({of})::{name}(): {answer}"));
        }
    }
    all
}

/// Reads a line; none if it is none.
fn parse(line: &str) -> Option<(&str, Overload)> {
    let (head, answers) = line.rsplit_once(": ")?;
    let (receiver, call) = match head.split_once("::") {
        Some((receiver, call)) => (Some(receiver), call),
        None => (None, head),
    };
    let (name, takes) = call.strip_suffix(')')?.split_once('(')?;
    let takes = receiver.into_iter().chain(parts(takes)).map(of).collect();
    Some((name, Overload { is_method: receiver.is_some(), takes, answers: of(answers) }))
}

/// Types that are separated by commas, those inside of brackets left whole.
fn parts(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0_i32, 0);
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => (),
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

fn of(text: &str) -> Type {
    /// Entries and letters of what a function makes.
    const MANY: u64 = 3 * 1024 * 1024;
    if let Some((outer, inner)) = text.strip_suffix(')').and_then(|text| text.split_once('(')) {
        let inner = parts(inner).into_iter().map(of).collect::<Vec<_>>();
        return match (outer, &inner[..]) {
            ("list", [item]) => Type::List(item.clone().into(), MANY),
            ("map", [key, value]) => Type::Map([key.clone(), value.clone()].into(), MANY),
            ("type", [inner]) => Type::Itself(inner.clone().into()),
            (_, [inner, ..]) => Type::Optional(inner.clone().into()),
            (_, []) => Type::Dyn,
        };
    }
    match text {
        "A" => Type::Open(0),
        "B" => Type::Open(1),
        "dyn" => Type::Dyn,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::Text(u64::MAX),
        "bytes" => Type::Bytes(MANY),
        "duration" => Type::Duration,
        "timestamp" => Type::TIME,
        named => Type::Made(Arc::from(named)),
    }
}
