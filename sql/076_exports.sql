-- 076_exports.sql: bundles to download have a bound of bytes of their own.

-- A row is a bundle to download, from when it began to be written until it is deleted from the vault: so many bytes of it are
-- counted for its team, which may have as many of all of them together as it may have stored (stored-bytes).
create table export (
  key      text        primary key,
  team_id  uuid        not null references team on delete cascade,
  bytes    count_of    not null,
  until    timestamptz not null    -- when it is deleted, or what a run that was killed left of it
);
create index export_of_team on export (team_id);
