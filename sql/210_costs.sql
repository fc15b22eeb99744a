-- 210_costs.sql: how much each repo has had in the vault, day by day, summed by month: what stores bill.

-- A row says on how many days of a month a repo was measured, and when last: each day counts once.
create table measured_month (
  repo_id  uuid not null references repo on delete cascade,
  month    date not null check (month = date_trunc('month', month)),  -- its first day, by UTC
  days     int  not null check (days > 0),
  last_day date not null,
  primary key (repo_id, month),
  check (last_day >= month)
);

-- A row is one kind of a repo's bytes in one storage class: the sum of its sizes over the measured days of a month.
create table stored_month (
  repo_id   uuid        not null references repo on delete cascade,
  month     date        not null check (month = date_trunc('month', month)),
  kind      text        not null check (kind in ('parts', 'indexes', 'manifests', 'replaced')),
  class     text        not null check (class <> ''),  -- of the store: STANDARD unless it was moved
  byte_days numeric(30) not null check (byte_days >= 0),
  primary key (repo_id, month, kind, class)
);
