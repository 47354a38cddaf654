//! What the sidecar may use: `cpu=10m,memory=32Mi,memory-limit=128Mi`.
use super::quantity;
use serde_json::{Map, Value, json};

/// Requests and limits. A limit is absent where it is `none`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resources {
    requests: [(&'static str, String); 2],
    limits: [(&'static str, Option<String>); 2],
}

impl Default for Resources {
    /// Measured (`tests/perf/results.md`): the process holds 12 MiB idle, and 76 at most while 1,000 connections send at once. No limit on
    /// the CPU, because throttling shows as latency of every call.
    fn default() -> Self {
        Self {
            requests: [("cpu", "10m".to_owned()), ("memory", "32Mi".to_owned())],
            limits: [("cpu", None), ("memory", Some("128Mi".to_owned()))],
        }
    }
}

const KEYS: &str = "cpu, memory, cpu-limit and memory-limit";

impl Resources {
    /// What the annotation says, over the defaults. Every problem is in the error.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let (mut resources, mut problems, mut seen) = (Self::default(), Vec::new(), Vec::new());
        for part in text.split(',').map(str::trim) {
            let Some((key, amount)) = part.split_once('=').map(|(key, amount)| (key.trim(), amount.trim())) else {
                problems.push(format!("`{part}` is not KEY=AMOUNT; the keys are {KEYS}"));
                continue;
            };
            if seen.contains(&key) {
                problems.push(format!("`{key}` is said twice"));
            }
            seen.push(key);
            if let Err(problem) = resources.set(key, amount) {
                problems.push(problem);
            }
        }
        for ((name, request), (_, limit)) in resources.requests.iter().zip(&resources.limits) {
            let amount = |text: &str| quantity::parse(text);
            if let Some(limit) = limit.as_ref().filter(|limit| amount(request) > amount(limit)) {
                problems.push(format!("{name}: {request} is asked for and {limit} allowed; raise `{name}-limit`"));
            }
        }
        if problems.is_empty() { Ok(resources) } else { Err(problems) }
    }

    fn set(&mut self, key: &str, amount: &str) -> Result<(), String> {
        let (name, is_limit) = match key {
            "cpu" => (0, false),
            "memory" => (1, false),
            "cpu-limit" => (0, true),
            "memory-limit" => (1, true),
            _ => return Err(format!("`{key}` is no key; the keys are {KEYS}")),
        };
        if is_limit && amount == "none" {
            self.limits[name].1 = None;
            return Ok(());
        }
        if quantity::parse(amount).is_none() {
            let example = if name == 0 { "10m" } else { "32Mi" };
            return Err(format!("`{key}={amount}` is no amount; write one such as {example}"));
        }
        if is_limit {
            self.limits[name].1 = Some(amount.to_owned());
        } else {
            self.requests[name].1 = amount.to_owned();
        }
        Ok(())
    }

    pub(super) fn json(&self) -> Value {
        let requests: Map<String, Value> =
            self.requests.iter().map(|(name, amount)| ((*name).to_owned(), amount.as_str().into())).collect();
        let limits: Map<String, Value> = (self.limits.iter())
            .filter_map(|(name, amount)| Some(((*name).to_owned(), amount.as_deref()?.into())))
            .collect();
        if limits.is_empty() { json!({"requests": requests}) } else { json!({"requests": requests, "limits": limits}) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_stays() {
        let said = Resources::parse("cpu=50m, cpu-limit=1").expect("good");
        let expected = json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "128Mi"}});
        assert_eq!(said.json(), expected);
        let unlimited = Resources::parse("memory=1Gi,memory-limit=none").expect("good");
        assert_eq!(unlimited.json(), json!({"requests": {"cpu": "10m", "memory": "1Gi"}}));
    }

    #[test]
    fn every_problem_is_said() {
        let problems = Resources::parse("cpu=fast,disk=1Gi,memory=1Gi,memory=2Gi,,cpu-limit=").expect_err("bad");
        let expected = [
            "`cpu=fast` is no amount; write one such as 10m",
            "`disk` is no key; the keys are cpu, memory, cpu-limit and memory-limit",
            "`memory` is said twice",
            "`` is not KEY=AMOUNT; the keys are cpu, memory, cpu-limit and memory-limit",
            "`cpu-limit=` is no amount; write one such as 10m",
            "memory: 2Gi is asked for and 128Mi allowed; raise `memory-limit`",
        ];
        assert_eq!(problems, expected);
    }
}
