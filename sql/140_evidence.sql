-- 140_evidence.sql: what was proved, in signed statements that people can check without Everref.

-- A row is a key that signs statements, or signed earlier ones. The newest that is not ended signs.
create table evidence_key (
  id           text        primary key check (id ~ '^[0-9a-f]{64}$'),  -- SHA-256 of the public key as DER
  public       bytea       not null check (octet_length(public) = 32),
  sealed       bytea,                 -- the private key, sealed with SECRET_KEYS; null: read back from the vault, it only checks
  since        timestamptz not null,
  until        timestamptz,           -- what it signed later does not hold; null: it may sign
  previous     text,                  -- the id of the key that introduced it; null: none did
  introduction text        not null,  -- the statement that did
  vault_key    text        not null unique,
  stored_at    timestamptz            -- null: the introduction is not known to be in the vault yet
);

-- A row is one statement about one repo, in the vault or on its way there.
create table evidence (
  key      text            primary key,  -- in the vault
  repo_id  uuid            not null references repo,
  kind     text            not null check (kind in ('drill', 'verification')),
  snapshot snapshot_number not null,
  moment   int             not null default 0,  -- within the snapshot; 0: the snapshot itself
  at       timestamptz     not null,     -- when what it tells of ended, as the row of the drill has it
  passed   boolean         not null,     -- it found no problem
  key_id   text            not null,     -- of the key that signed it
  sha256   text            not null,     -- of the stored bytes
  body     bytea                         -- null: it is in the vault
);
create index evidence_of_repo on evidence (repo_id, at);
create index evidence_waiting on evidence (at) where body is not null;
