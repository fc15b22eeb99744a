-- 285_pushed_by.sql: which Everrefs a repo that is pushed to has its last push from, so that mirrors of mirrors make no circle.

-- A row is a repo whose last push came from a mirror of another Everref: the marks of that one and of all by which it came there,
-- the first one first. A push by anybody else removes it.
create table pushed_by (
  repo_id uuid   primary key references repo on delete cascade,
  marks   text[] not null check (cardinality(marks) between 1 and 16)
);
