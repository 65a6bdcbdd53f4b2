package main

func showConfig(env environment) int {
	c, code, ok := load(env)
	if ok {
		c.Effective(env.stdout)
	}
	return code
}
