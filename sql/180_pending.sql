-- 180_pending.sql: what takes something away for ever: asked for by one person, confirmed by another, done days later.

-- Since when a member has, without a break and by nobody else's hand, been an admin or owner: a role given anew, or a sign-in
-- link that somebody else made for them, begins it again. Null: neither, or older than this column (then: since).
alter table member add column admin_since timestamptz;
update member set admin_since = since where role in ('admin', 'owner');

-- How many days there are from the confirmation until it is done. More are set at once; fewer are themselves asked for.
alter table team add column pending_days int not null default 7 check (pending_days between 7 and 365);

-- A row is somebody who was an admin or owner of a team and is not any more: for 30 days they are still told, and may cancel.
create table former_admin (
  team_id   uuid        not null references team on delete cascade,
  person_id uuid        not null references person on delete cascade,
  role      role        not null,  -- the one that they had
  left_at   timestamptz not null,
  primary key (team_id, person_id)
);

-- A row is one thing that somebody asked for. It waits for a second person, then for its time; until it has begun, any
-- admin or owner can cancel it. The row stays for ever: it is the line that says what was there, who let it go and why.
create table pending_action (
  id             uuid        primary key default gen_random_uuid(),
  team_id        uuid        references team on delete set null,
  team_name      text        not null,           -- as it was called then
  repo_id        uuid,                           -- no foreign key: the repo goes, this line stays. null: about no repo
  kind           text        not null check (kind ~ '^[a-z-]+$'),  -- of mirror/core/rules/pending.py
  wanted         jsonb       not null,           -- what its kind needs to know to do it; no secret
  subject        text        not null,           -- what it is done to, in words
  why            text        not null,           -- as who asked wrote it; empty: they gave no reason
  asked_by       uuid        references person on delete set null,
  asked_name     text        not null,
  by_operator    boolean     not null,           -- whoever runs the installation asked, at its command line
  asked_at       timestamptz not null,
  is_alone       boolean     not null,           -- there was nobody who could confirm: a longer delay instead
  confirmed_by   uuid        references person on delete set null,
  confirmed_name text,
  confirmed_at   timestamptz,
  takes_effect_at timestamptz,                   -- null: it still needs a second person
  cancelled_by   uuid        references person on delete set null,
  cancelled_name text,
  cancelled_at   timestamptz,
  begun_at       timestamptz,                    -- from here on it cannot be cancelled
  retry_at       timestamptz,                    -- a try failed; not again before
  done_at        timestamptz,                    -- it ended, well or (failed) not
  failed         text,                           -- why the last try did not end well
  result         jsonb,                          -- what was done
  check (cancelled_at is null or begun_at is null),
  check (begun_at is null or takes_effect_at is not null),
  check ((confirmed_at is null) = (confirmed_name is null)),
  check ((cancelled_at is null) = (cancelled_name is null))
);
create index pending_of_team on pending_action (team_id, asked_at);
create index pending_open on pending_action (takes_effect_at) where cancelled_at is null and done_at is null;
-- Asked for twice, it is the same: nobody starts its delay again.
create unique index pending_once on pending_action (team_id, kind, coalesce(repo_id, team_id), md5(wanted::text))
  where cancelled_at is null and done_at is null;

-- A row says that a person was mailed, or cannot be, that something was asked for, comes soon, was done...
create table pending_told (
  action_id uuid        not null references pending_action on delete cascade,
  stage     text        not null check (stage in ('asked', 'confirmed', 'cancelled', 'soon', 'done', 'failed', 'lapsed')),
  person_id uuid        not null references person on delete cascade,
  at        timestamptz not null,
  primary key (action_id, stage, person_id)
);
