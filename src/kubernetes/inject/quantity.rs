//! Kubernetes quantities, as far as the sidecar's resources need them.

/// An amount in thousandths of a core or of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Milli(u128);

/// Parses quantities such as `250m`, `0.5`, `2`, `64Mi`, `1.5Gi`, `128M` and `1e3`. Signs and the
/// suffixes below a thousandth are not accepted.
pub(super) fn parse(text: &str) -> Option<Milli> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || number.ends_with('.') || fraction.len() > 9 || whole.len() > 18 || fraction.contains('.') {
        return None;
    }
    let digits: u128 = format!("{whole}{fraction}").parse().ok()?;
    let scaled = digits.checked_mul(multiplier(suffix)?)?;
    // Kubernetes rounds up, too.
    Some(Milli(scaled.div_ceil(10_u128.pow(u32::try_from(fraction.len()).ok()?))))
}

/// Returns the multiplier of a suffix, in thousandths.
fn multiplier(suffix: &str) -> Option<u128> {
    let thousand = |power: u32| 1000_u128.pow(power + 1);
    let kibi = |power: u32| 1024_u128.pow(power) * 1000;
    Some(match suffix {
        "m" => 1,
        "" => thousand(0),
        "k" => thousand(1),
        "M" => thousand(2),
        "G" => thousand(3),
        "T" => thousand(4),
        "P" => thousand(5),
        "E" => thousand(6),
        "Ki" => kibi(1),
        "Mi" => kibi(2),
        "Gi" => kibi(3),
        "Ti" => kibi(4),
        "Pi" => kibi(5),
        "Ei" => kibi(6),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            let exponent: u32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
            if exponent > 18 {
                return None;
            }
            1000 * 10_u128.pow(exponent)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_compare_by_value() {
        let amount = |text: &str| parse(text).unwrap_or_else(|| panic!("{text}"));
        assert_eq!(amount("0.25"), amount("250m"));
        assert_eq!(amount("1Gi"), amount("1024Mi"));
        assert_eq!(amount("1e3"), amount("1k"));
        assert!(amount("64M") < amount("64Mi"));
        assert!(amount("0.0001") > amount("0"), "rounded up");
        for text in ["", "m", "-1", "+1", "1.", ".5", "1.2.3", "1 Mi", "1mi", "1e", "1e99", "64MiB", "ten", "１"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
