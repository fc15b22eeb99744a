-- 245_status_page.sql: what anybody may see, without signing in, of how a team's repositories are served.
-- null: nothing. counts: whether clones work, how many repositories there are and how recent they are. names: each of them by name, too.
alter table team add column status_page text check (status_page in ('counts', 'names'));
