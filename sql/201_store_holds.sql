-- 201_store_holds.sql: legal holds (repo_hold) as stores with Object Lock keep them.
-- A row is a repo of whose objects some or all are on legal hold in one store. It is there before the first of them is, and goes
-- when none is any more.
create table store_hold (
  place   text not null,      -- as Vault.describe names the store
  repo_id uuid not null,      -- without a reference: the hold of a repo that is gone is still to be lifted
  held_to timestamptz,        -- objects that were stored before then are held; null: not all yet
  primary key (place, repo_id)
);
