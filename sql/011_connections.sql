-- 011_connections.sql: by what Everref reads at forges, what is there, and which of it is kept.

-- A row is one person's grant or token at one forge host, used for the repos of one team. The tokens are sealed by
-- mirror/keyring.py for this row and no other.
create table connection (
  id             uuid primary key default gen_random_uuid(),
  team_id        uuid not null references team on delete cascade,
  person_id      uuid references person on delete set null,
  forge          text not null check (forge in ('github', 'gitlab')),
  host           text not null check (host <> ''),       -- of the web pages
  account_id     text not null,
  login          text not null,
  grant_kind     text not null check (grant_kind in ('oauth', 'token')),
  scopes         text[] not null,           -- as granted; empty with a fine-grained token, which does not tell
  sealed_access  bytea not null,
  sealed_refresh bytea,                     -- null: it has none
  expires_at     timestamptz,               -- of the access token; null: not told
  version        int not null default 1,    -- grows with every new pair of tokens
  state          text not null default 'works' check (state in ('works', 'reauth', 'ended')),
  why            text,                      -- in a line; null: it works
  everything     boolean not null default false,  -- keep what is found later too
  patterns       text[] not null default '{}',    -- or what matches one of these: acme/*
  created_at     timestamptz not null,
  checked_at     timestamptz,               -- when the forge last took the token
  listed_at      timestamptz,               -- when its repositories were last listed whole
  list_at        timestamptz,               -- when they are due to be listed again; null: never was
  etags          jsonb not null default '{}',     -- of the pages of the last listing
  check ((state = 'works') = (why is null)),
  unique (team_id, forge, host, account_id, grant_kind)
);
create index connection_due on connection (list_at) where state = 'works';

-- A row is a repository that a connection can see at its forge, chosen or not.
create table listed (
  connection_id  uuid not null references connection on delete cascade,
  repository_id  text not null check (repository_id <> ''),  -- the forge's number
  full_name      text not null,
  clone_url      text not null,
  web_url        text not null,
  private        boolean not null,
  archived       boolean not null,
  fork           boolean not null,
  admin          boolean not null,          -- hooks can be registered
  bytes          count_of,                  -- as the forge says; null: it does not
  pushed_at      timestamptz,
  seen_at        timestamptz not null,
  gone_at        timestamptz,               -- since when listings lack it; null: it is there
  primary key (connection_id, repository_id)
);
create index listed_by_name on listed (connection_id, lower(full_name));

-- What a repo is at its forge, and when it is looked at.
alter table repo
  add column forge         text not null default 'generic' check (forge in ('github', 'gitlab', 'gitea', 'generic')),
  add column host          text,                  -- of its remote; null: a path
  add column repository_id text,                  -- the forge's number; null: not known
  add column connection_id uuid references connection on delete set null,  -- whose token fetches it; null: none
  add column private       boolean,               -- null: not told
  add column added_by      uuid references person on delete set null,
  add column archived_at   timestamptz,           -- since when it is gone at its forge; what is kept stays. null: it is there
  add column asked_at      timestamptz,           -- when the forge was last asked what has become of it; null: never
  add column paused_at     timestamptz,           -- null: pushes and the schedule start syncs
  add column schedule      text,                  -- a cron expression, or an interval as in 15m, 6h; null: by activity
  add column look_at       timestamptz,           -- when the next look is due; null: at once
  add column looked_at     timestamptz,           -- when its remote last answered
  add column changed_at    timestamptz,           -- when a look last found something new
  add column excluded      text[] not null default '{}',  -- patterns of refs that are not kept
  add column drilled_at    timestamptz;
create index repo_due on repo (look_at) where archived_at is null and paused_at is null;
create index repo_of_connection on repo (connection_id) where connection_id is not null;
create index delivery_of_change on delivery (received_at) where kind = 'repository';  -- few: renames, transfers and the like
create unique index repo_at_forge on repo (team_id, forge, host, repository_id) where repository_id is not null;

-- A hook that we registered ourselves is known by the forge's number too, and looked after.
alter table hook
  add column forge_hook_id text,                  -- null: a person pasted it in
  add column state         text not null default 'given' check (state in ('given', 'registered', 'disabled', 'missing', 'refused')),
  add column why           text,
  add column checked_at    timestamptz,           -- when the forge was last asked about it
  add column delivered_at  timestamptz;           -- the last delivery that was its own
create index hook_to_check on hook (checked_at) where forge_hook_id is not null;
