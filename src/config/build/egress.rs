//! Which addresses requests may go to.
use super::Builder;
use crate::config::file::EgressFile;
use crate::config::leaf::Network;
use crate::config::problem::KeyPath;
use crate::policy::EgressRules;

impl Builder<'_> {
    pub(super) fn egress(&mut self, file: &EgressFile) -> EgressRules {
        let ranges = |networks: &[Network]| networks.iter().map(|network| network.0).collect();
        let rules = EgressRules { refuse: ranges(&file.refuse), allow: ranges(&file.allow) };
        let path = KeyPath::default().key("egress").key("allow");
        for (index, range) in rules.allow.iter().enumerate() {
            if rules.refuse.contains(range) {
                self.error(&path.index(index), format!("{range} is in `refuse` as well"))
                    .help("of two ranges the narrower one decides; remove one of these");
            } else if !rules.refuse.iter().any(|wider| wider.contains(range)) {
                self.warn(&path.index(index), format!("nothing refuses {range}, so allowing it has no effect"))
                    .help("`allow` is for exceptions from `refuse`");
            }
        }
        rules
    }
}
