-- 170_dropped.sql: snapshots that were dropped on purpose, and the epochs in which pack logs were packed anew without them.

alter table snapshot
  add column dropped_at     timestamptz,  -- null: it is kept; else its objects went with the epoch that began then
  add column dropped_why    text,         -- who wanted that and why, in words
  add column manifest_epoch int;          -- as its manifest in the vault says it; null: the same as epoch
alter table snapshot add check ((dropped_at is null) = (dropped_why is null));
create index snapshot_kept on snapshot (repo_id, number) where dropped_at is null;

-- A row is a new epoch of a repo's pack log: everything up to its last snapshot was packed anew, without what only the
-- dropped ones had. Its record in the vault (retention/EPOCH.json) says the same, and came first.
create table epoch (
  repo_id       uuid            not null references repo on delete cascade,
  epoch         int             not null check (epoch > 1),
  last_snapshot snapshot_number not null,
  began_at      timestamptz     not null,
  by_whom       text            not null,
  why           text            not null,
  dropped       int             not null,   -- snapshots, by this epoch
  bytes_before  count_of        not null,   -- of the parts that it replaced
  bytes_after   count_of        not null,
  record_sha256 sha256_hex      not null,   -- of the record's stored bytes
  primary key (repo_id, epoch)
);
