-- 007_hooks.sql: how forges tell of pushes. All of it is hints: what counts is what the remote itself says when asked.

-- A row is a webhook of one repo. Its id is in the address that the forge posts to, and cannot be guessed. The secrets
-- are sealed by mirror/keyring.py for this row and no other. After a change the old one is accepted for a while.
-- The minute columns count the deliveries of the running minute.
create table hook (
  id            text        primary key check (octet_length(id) between 20 and 100),
  repo_id       uuid        not null unique references repo on delete cascade,
  forge         text        not null check (forge in ('github', 'gitlab', 'gitea')),
  sealed        bytea       not null,
  old_sealed    bytea,                  -- the secret before this one; null: there was none
  old_until     timestamptz,            -- until when it is accepted
  repository_id text check (repository_id <> ''),  -- what the forge calls the repository; null: nothing was delivered yet
  created_at    timestamptz not null,
  minute_at     timestamptz,
  minute_count  int         not null default 0,
  check (num_nulls(old_sealed, old_until) in (0, 2))
);

-- A row is a delivery: one verified webhook request as it arrived. The forge's id for it is unique per hook, so that a
-- replay is known. The body is kept raw, since jsonb refuses NUL and lone surrogates, and only its beginning.
create table delivery (
  id          bigint      primary key generated always as identity,
  hook_id     text        not null references hook on delete cascade,
  delivery    text        not null check (delivery <> '' and octet_length(delivery) <= 300),
  received_at timestamptz not null,
  kind        text        not null check (kind in ('ping', 'push', 'create', 'delete', 'repository', 'ignored')),
  why         text,                   -- why nothing came of it; null: a sync was wished for
  body        bytea       not null check (octet_length(body) <= 262144),
  bytes       count_of    not null,   -- of the whole body
  unique (hook_id, delivery)
);
create index delivery_of_hook on delivery (hook_id, received_at);
create index delivery_by_time on delivery (received_at);

-- A row is a claim: what a delivery says that one ref did. It is never applied; a ref change that a sync finds takes
-- from the claim that fits it who pushed and when.
create table claim (
  delivery_id bigint   not null references delivery on delete cascade,
  position    int      not null check (position > 0),
  name        ref_name not null,
  before      ref_target,             -- null: the push created it, or the forge did not tell
  after       ref_target,             -- null: the push deleted it
  pushed_by   text,                   -- null: not told
  pushed_at   timestamptz,            -- null: not told
  primary key (delivery_id, position)
);

create index repo_wished on repo (wanted_at) where wanted_at is distinct from synced_at;
