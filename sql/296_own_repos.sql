-- 296_own_repos.sql: the repo that is made for an upload has the upload's own id, so that one is known whose finish was killed.

alter table upload drop column made;
