//! The sidecar's resources, written as `cpu=10m,memory=32Mi,memory-limit=128Mi`.
use super::quantity;
use serde_json::{Map, Value, json};

/// The requests and limits of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resources {
    cpu: Amounts,
    memory: Amounts,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Amounts {
    request: String,
    /// Absent for no limit.
    limit: Option<String>,
}

impl Default for Resources {
    /// By measurement (`tests/perf/results.md`) the process holds 12 MiB when idle, and at most 76
    /// MiB while 1,000 connections send at once. The CPU has no limit, because throttling adds
    /// latency to every call.
    fn default() -> Self {
        Self {
            cpu: Amounts { request: "10m".to_owned(), limit: None },
            memory: Amounts { request: "32Mi".to_owned(), limit: Some("128Mi".to_owned()) },
        }
    }
}

const KEYS: &str = "cpu, memory, cpu-limit and memory-limit";

impl Resources {
    /// Parses the annotation; what it leaves out has its default. The error lists every problem.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut resources, mut problems, mut seen) = (Self::default(), Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim) {
            let Some((key, amount)) = part.split_once('=').map(|(key, amount)| (key.trim(), amount.trim())) else {
                problems.push(format!("`{part}` is not KEY=AMOUNT; the keys are {KEYS}"));
                continue;
            };
            if seen.contains(&key) {
                problems.push(format!("`{key}` is given twice"));
            }
            seen.push(key);
            problems.extend(resources.set(key, amount).err());
        }
        for (name, Amounts { request, limit }) in resources.named() {
            if let Some(limit) = limit.as_ref().filter(|limit| quantity::parse(request) > quantity::parse(limit)) {
                problems.push(format!("{name}: the request {request} exceeds the limit {limit}; raise `{name}-limit`"));
            }
        }
        if problems.is_empty() { Ok(resources) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, amount: &str) -> Result<(), String> {
        let (amounts, example) = match key {
            "cpu" | "cpu-limit" => (&mut self.cpu, "10m"),
            "memory" | "memory-limit" => (&mut self.memory, "32Mi"),
            _ => return Err(format!("`{key}` is not a known key; the keys are {KEYS}")),
        };
        let is_limit = key.ends_with("-limit");
        if is_limit && amount == "none" {
            amounts.limit = None;
            return Ok(());
        }
        if quantity::parse(amount).is_none() {
            return Err(format!("`{key}={amount}` is not a quantity; write one such as {example}"));
        }
        if is_limit {
            amounts.limit = Some(amount.to_owned());
        } else {
            amount.clone_into(&mut amounts.request);
        }
        Ok(())
    }

    fn named(&self) -> [(&'static str, &Amounts); 2] {
        [("cpu", &self.cpu), ("memory", &self.memory)]
    }

    /// Returns the value of a container's `resources`.
    pub(super) fn json(&self) -> Value {
        let (mut requests, mut limits) = (Map::new(), Map::new());
        for (name, amounts) in self.named() {
            requests.insert(name.to_owned(), amounts.request.as_str().into());
            if let Some(limit) = &amounts.limit {
                limits.insert(name.to_owned(), limit.as_str().into());
            }
        }
        if limits.is_empty() { json!({"requests": requests}) } else { json!({"requests": requests, "limits": limits}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_amount_has_its_default() {
        let resources = Resources::parse("cpu=50m, cpu-limit=1").expect("good");
        let expected = json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}});
        assert_eq!(resources.json(), expected);
        let unlimited = Resources::parse("memory=1Gi,memory-limit=none").expect("good");
        assert_eq!(unlimited.json(), json!({"requests": {"cpu": "10m", "memory": "1Gi"}}));
    }

    #[test]
    fn every_problem_is_reported() {
        let problems = Resources::parse("cpu=fast,disk=1Gi,memory=1Gi,memory=2Gi,,cpu-limit=").expect_err("bad");
        let expected = [
            "`cpu=fast` is not a quantity; write one such as 10m",
            "`disk` is not a known key; the keys are cpu, memory, cpu-limit and memory-limit",
            "`memory` is given twice",
            "`` is not KEY=AMOUNT; the keys are cpu, memory, cpu-limit and memory-limit",
            "`cpu-limit=` is not a quantity; write one such as 10m",
            "memory: the request 2Gi exceeds the limit 128Mi; raise `memory-limit`",
        ];
        assert_eq!(problems, expected);
    }
}
