-- 306_mirror_lag.sql: since when a repo at a mirror can be behind.

-- A mirror that was just made, or resumed, is not behind since the snapshot that it lacks was taken, which may be years ago.
alter table mirror_target add column since timestamptz; -- when the row was made, or its mirror was resumed last
update mirror_target set since = mirror.created_at from mirror where mirror.id = mirror_id;
alter table mirror_target alter column since set not null;
