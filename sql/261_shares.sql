-- 261_shares.sql: links that let somebody without an account fetch one moment of one repo, or chosen refs of it.

-- A row is a share link. Whoever has its token may fetch what it covers until it expires, is revoked or, if it works once,
-- was fetched whole; and only while the member who made it could share that themselves. Of the token only its SHA-256 is
-- kept. A rebuild brings none of these rows back: one that was revoked since the last export would work again.
create table share (
  id            uuid        primary key default gen_random_uuid(),
  token_sha256  bytea       not null unique check (octet_length(token_sha256) = 32),
  repo_id       uuid        not null references repo on delete cascade,
  snapshot      int         not null check (snapshot > 0),
  moment        int         not null default 0 check (moment >= 0),  -- as everywhere: 0 is the snapshot itself
  globs         text[]      not null default '{}',                   -- the refs that are shared; none: all of the moment
  forms         text[]      not null check (cardinality(forms) > 0 and forms <@ array['bundle', 'archive', 'clone']),
  made_by       uuid        references person on delete set null,    -- null: see by_operator, else they are gone
  by_operator   boolean     not null,                                -- made on the command line, by whoever runs Everref
  api_token_id  uuid,                                                -- by which it was made, and with which it ends
  password_hash text,                                                -- argon2id in its own encoding; null: it has none
  once          boolean     not null,
  created_at    timestamptz not null,
  expires_at    timestamptz not null,
  revoked_at    timestamptz,
  revoked_by    text,                                                -- who did that, in words
  claimed_by    text,                                                -- the network that fetches it, of one that works once
  claimed_until timestamptz,                                         -- until then nobody else can
  used_up_at    timestamptz,                                         -- when it was fetched whole, of one that works once
  job_id        uuid,                                                -- of its bundle; null: none was wanted yet
  uses          bigint      not null default 0,                      -- downloads and clones that were begun
  bytes         bigint      not null default 0,                      -- that were sent for them
  first_used_at timestamptz,
  last_used_at  timestamptz,
  check (expires_at > created_at),
  check ((claimed_by is null) = (claimed_until is null))
);
create index share_of_repo on share (repo_id, created_at desc);
create index share_of_person on share (made_by);

-- A row is what one address did with a link in one minute, so that ten thousand requests are a few rows. Only the newest
-- of a link are kept.
create table share_use (
  share_id uuid        not null references share on delete cascade,
  at       timestamptz not null,                  -- the beginning of the minute
  address  text        not null check (octet_length(address) <= 100),
  what     text        not null check (what in ('page', 'bundle', 'archive', 'clone', 'password')),
  times    bigint      not null check (times > 0),
  primary key (share_id, at, address, what)
);

-- A row is how often anything of that kind was fetched by any share link, and how much of it; these numbers never go down.
create table share_total (
  what  text   primary key check (what in ('page', 'bundle', 'archive', 'clone', 'password')),
  times bigint not null,
  bytes bigint not null
);
