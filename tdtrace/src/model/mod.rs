//! What the sources say, made into what the views show. Pure: no aya, no ratatui, no clap, no clock.
