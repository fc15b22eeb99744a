-- 008_people.sql: who signs in, in which teams, and what was done by whom.

create domain role as text check (value in ('viewer', 'operator', 'admin', 'owner'));  -- each may what those before it may

-- A row is somebody who can sign in: through a forge, by e-mail and password, or by a link. The e-mail is for the
-- password and for mail; two people are never taken for one because of it.
create table person (
  id            uuid primary key default gen_random_uuid(),
  name          text not null check (name <> '' and octet_length(name) <= 200),
  email         text check (email = lower(email) and email ~ '^[^@[:space:]]+@[^@[:space:]]+$' and octet_length(email) <= 320),
  password_hash text,                  -- argon2id in its own encoding; null: no password
  zone          text,                  -- IANA name, for times that are not relative; null: UTC
  created_at    timestamptz not null,
  check (password_hash is null or email is not null)
);
create unique index person_email on person (email) where email is not null;

-- A row is an account at a forge by which a person signs in, known by the forge's own number for it: logins and
-- e-mail addresses change hands, numbers do not.
create table identity (
  forge      text not null check (forge in ('github', 'gitlab')),
  host       text not null check (host <> ''),       -- of the forge's web pages: github.com
  account_id text not null check (account_id <> ''), -- the forge's number
  person_id  uuid not null references person on delete cascade,
  login      text not null,                          -- as it was when last seen
  seen_at    timestamptz not null,
  primary key (forge, host, account_id)
);
create index identity_of_person on identity (person_id);

-- A row is a person's place in a team.
create table member (
  team_id   uuid not null references team on delete cascade,
  person_id uuid not null references person on delete cascade,
  role      role not null,
  since     timestamptz not null,
  primary key (team_id, person_id)
);
create index member_of_person on member (person_id);

-- The person whose own team it is; null: a team of several from the start, or that of the command line.
alter table team
  add column person_id  uuid references person on delete set null,
  add column created_at timestamptz not null default now(),
  add constraint team_name_length check (octet_length(name) <= 100);
create unique index team_of_person on team (person_id) where person_id is not null;

-- A row is a link that makes whoever opens it, signed in, a member. It expires and works once.
create table invitation (
  id          uuid primary key default gen_random_uuid(),
  team_id     uuid not null references team on delete cascade,
  role        role not null,
  email       text,                    -- to whom it was meant; null: not said. It is no condition
  invited_by  uuid references person on delete set null,
  created_at  timestamptz not null,
  expires_at  timestamptz not null,
  accepted_by uuid references person on delete set null,
  accepted_at timestamptz,             -- null: open, unless it was withdrawn or has expired
  withdrawn_at timestamptz
);
create index invitation_of_team on invitation (team_id, created_at);

-- A row is a browser that is signed in. Its cookie holds a random id of which only the SHA-256 is kept here.
create table session (
  id_sha256  bytea primary key check (octet_length(id_sha256) = 32),
  person_id  uuid not null references person on delete cascade,
  csrf       text not null,            -- sent back with every form
  created_at timestamptz not null,
  seen_at    timestamptz not null,     -- at most a minute old
  sure_at    timestamptz not null,     -- when the person last proved who they are: dangerous things ask again
  agent      text not null,            -- the browser, in its own words, shortened
  address    text not null             -- from where
);
create index session_of_person on session (person_id);

-- A row is a one-time link that signs somebody in, as `everref up` and `everref sign-in` print them.
create table sign_in_link (
  id_sha256  bytea primary key check (octet_length(id_sha256) = 32),
  person_id  uuid references person on delete cascade,  -- null: the first owner, made when it is opened
  created_at timestamptz not null,
  expires_at timestamptz not null,
  used_at    timestamptz
);

-- A row counts how often somebody tried something that is limited, such as signing in, in one stretch of time. What and
-- who is hashed. Losing them in a crash of the database costs a few more tries.
create unlogged table tries (
  key_sha256 bytea primary key check (octet_length(key_sha256) = 32),
  count      int not null check (count > 0),
  until      timestamptz not null      -- the end of the stretch
);
create index tries_by_time on tries (until);

-- A row is a token for programs: named, limited to a team and to what its scopes say. Only its SHA-256 is kept.
create table api_token (
  id           uuid primary key default gen_random_uuid(),
  id_sha256    bytea not null unique check (octet_length(id_sha256) = 32),
  person_id    uuid not null references person on delete cascade,
  team_id      uuid not null references team on delete cascade,
  name         text not null check (name <> '' and octet_length(name) <= 200),
  scopes       text[] not null check (scopes <@ array['read', 'backup', 'restore', 'admin']),
  created_at   timestamptz not null,
  expires_at   timestamptz,            -- null: never
  used_at      timestamptz,            -- the last time, at most a minute off
  revoked_at   timestamptz
);
create index api_token_of_team on api_token (team_id, created_at);

-- A row says that somebody did something. Rows are only ever added; each holds the SHA-256 of the one before it in
-- its team and of its own words, so that an edit or a gap shows.
create table audit (
  team_id   uuid not null references team,
  number    bigint not null check (number > 0),  -- 1, 2, 3 per team
  at        timestamptz not null,
  person_id uuid,                                -- no foreign key: people go, what they did stays. null: Everref itself
  actor     text not null,                       -- in words, as it was then
  action    text not null check (action ~ '^[a-z-]+(\.[a-z-]+)+$'),  -- repo.add, restore.push, member.remove
  repo_id   uuid,
  subject   text not null,                       -- what it was done to, in words
  detail    jsonb not null,
  address   text,                                -- from where; null: not by the network
  result    text not null check (result in ('done', 'refused', 'failed')),
  previous  sha256_hex,                          -- null: the team's first
  sha256    sha256_hex not null,
  primary key (team_id, number)
);
create index audit_by_time on audit (team_id, at);
create function audit_is_append_only() returns trigger language plpgsql as $$
begin
  raise exception 'audit entries are never changed';
end
$$;
create trigger audit_append_only before update or delete or truncate on audit execute function audit_is_append_only();

-- A row is something that somebody should see: a failure, a mass deletion, a token that died. It is told once.
create table notice (
  id       bigint primary key generated always as identity,
  team_id  uuid not null references team on delete cascade,
  repo_id  uuid references repo on delete cascade,
  kind     text not null check (kind ~ '^[a-z-]+$'),  -- mass-deletion, failing, recovered, connection, moved, archived
  message  text not null,
  at       timestamptz not null,
  seen_at  timestamptz,                -- null: nobody has dismissed it
  told_key text unique                 -- what makes it the same as an earlier one; null: always a new one
);
create index notice_of_team on notice (team_id, at);
create index notice_open on notice (team_id) where seen_at is null;

-- A row is a request that creates something, and its answer: sent again with the same key it is answered the same.
create table idempotency (
  person_id  uuid not null references person on delete cascade,
  key        text not null check (octet_length(key) between 1 and 200),
  request    sha256_hex not null,      -- of method, path and body
  status     int,                      -- null: still at work
  body       bytea,
  created_at timestamptz not null,
  primary key (person_id, key)
);
create index idempotency_by_time on idempotency (created_at);
