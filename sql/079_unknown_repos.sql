-- 079_unknown_repos.sql: what the vault has and this database does not know, so that nobody takes a lost database for a new one.

-- How many repos that is, as of the last look: the database before this one was lost, and everref rebuild reads them back.
alter table vault_identity add column unknown_repos int not null default 0 check (unknown_repos >= 0);
