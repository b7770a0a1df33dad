//! monitor-svc: proves by periodic probes that the way out and back over a link works.
