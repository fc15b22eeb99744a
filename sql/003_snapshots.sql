-- 003_snapshots.sql: every snapshot, and the bundles that the pack log is stored in.

-- A row is a part: one bundle that is, or was, in the vault, with a run of the repo's pack log. It is live until
-- another part replaces it, then a tombstone until its object is deleted, and then remembered: the snapshot that
-- it was born with goes on naming it. Where its inner boundaries are, the segments of its snapshots say.
create table part (
  key            text            primary key,  -- in the vault; begins with the repo's id
  repo_id        uuid            not null references repo,
  epoch          int             not null check (epoch > 0),
  first_snapshot snapshot_number not null,     -- the first snapshot whose objects it may hold
  last_snapshot  snapshot_number not null,
  bytes          count_of        not null,     -- of the stored object
  sha256         sha256_hex      not null,     -- of the stored bytes
  header_bytes   int             not null,     -- of the bundle header
  entries        count_of        not null,     -- pack entries in it
  cuttable       boolean         not null,     -- false: a checkpoint, whole or nothing
  complete       boolean         not null,     -- its pack needs no object from outside
  index_bytes    count_of        not null,     -- of the object beside it; 0: it has none
  index_sha256   sha256_hex,
  replaced_at    timestamptz,                  -- null: it is live
  deleted_at     timestamptz,                  -- null: its object is in the vault
  verified_at    timestamptz,                  -- when its bytes were last read back
  check (first_snapshot <= last_snapshot),
  check (deleted_at is null or replaced_at is not null),
  check ((index_bytes = 0) = (index_sha256 is null))
);
create unique index part_live on part (repo_id, epoch, first_snapshot) where replaced_at is null;
create index part_tombstone on part (repo_id, replaced_at) where replaced_at is not null and deleted_at is null;

-- A row is a snapshot: the whole refs map of one repo at one moment. Its manifest in the vault says the same,
-- and came first. The segment is the run of the pack log that it added; null: it brought no object.
create table snapshot (
  repo_id         uuid            not null references repo,
  number          snapshot_number not null,
  taken_at        timestamptz     not null,
  reason          text            not null check (reason in ('manual', 'push', 'sweep')),
  object_format   object_format   not null,
  head            ref_target,                 -- null: the remote did not tell
  refs_count      count_of        not null,   -- without HEAD
  refs_digest     sha256_hex      not null,   -- of the whole map; see refs.digest
  changes_count   count_of        not null,
  epoch           int             not null check (epoch > 0),
  log_entries     count_of        not null,   -- the boundary in the pack log: entries so far in this epoch
  log_bytes       count_of        not null,
  segment_entries count_of,
  segment_bytes   count_of,
  segment_sha256  sha256_hex,
  bundle_key      text            references part,  -- the part it was born with
  manifest_sha256 sha256_hex      not null,   -- of the manifest's stored bytes
  previous_sha256 sha256_hex,                 -- of the manifest before; null: this is the first
  verified_at     timestamptz,                -- when its bytes were last read back; null: only stored
  primary key (repo_id, number),
  check (num_nulls(segment_entries, segment_bytes, segment_sha256, bundle_key) in (0, 4))
);
create index snapshot_by_time on snapshot (repo_id, taken_at, number);
create index snapshot_bundle on snapshot (bundle_key) where bundle_key is not null;

-- A row is a bundle that a run is about to upload, or was about to when it died. It goes in the transaction
-- that records the bundle; what is left of a dead run names what must be discarded.
create table intent (
  key     text        primary key,
  repo_id uuid        not null references repo,
  owner   text        not null,                 -- of the run's lease
  at      timestamptz not null default now()    -- by this database's clock, as heartbeats are
);
create index intent_of_repo on intent (repo_id);
