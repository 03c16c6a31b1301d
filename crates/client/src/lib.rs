//! The routing client: view cache, one stream per node, retries that cannot do a thing twice, outcomes.
