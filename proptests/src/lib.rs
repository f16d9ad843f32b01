//! Properties of plans for random forests.
